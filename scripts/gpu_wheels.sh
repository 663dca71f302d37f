#!/usr/bin/env bash
# Collect, for a machine with a GPU and no network, what `python -m loadtest.gpu` needs besides torch and torchvision, as
# wheels for CPython 3.12 on x86-64 Linux:
#
#     scripts/gpu_wheels.sh FOLDER
#
# There, in a copy of this repository:
#
#     pip install --no-index --no-deps --target /tmp/site FOLDER/*.whl
#     export PYTHONPATH=/tmp/site:$PWD PYTHONSAFEPATH=1 PYTHONUSERBASE=/tmp/site
#     python -m loadtest.gpu --budget 540 --out gpu-results
#
# The folder smartbatch/ here must not hide the installed package (PYTHONSAFEPATH), and Mosec looks for its program in
# PYTHONUSERBASE.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
most_mb=50

# Beside this project's own dependencies: what its load generator and its tests use, and other servers to compare with.
# numpy comes with torchvision; hf_xet, for downloads, isn't needed.
more=(redis psutil pytest pytest-asyncio pytest-timeout httpx aiohttp litserve mosec transformers)
platforms=()
for glibc in 5 12 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)

rm -rf "$folder" && mkdir -p "$folder"
python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" .
python3 -m pip download --quiet -c constraints.txt --dest "$folder" --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" "$(echo "$folder"/smartbatch_server-*.whl)[local]" "${more[@]}"
rm -f "$folder"/numpy-*.whl "$folder"/hf_xet-*.whl
mb=$(du -sm "$folder" | cut -f1)
echo "$(ls "$folder" | wc -l) wheels, $mb MB in $folder"
((mb <= most_mb)) || { echo "more than $most_mb MB" >&2; exit 1; }
