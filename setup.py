"""Installs the folders at the top of the repository as one package: `gateway/` as `smartbatch.gateway`, and so on."""

from setuptools import find_packages, setup

FOLDERS = ("gateway", "worker", "shared", "deploy")
INSIDE = [package for folder in FOLDERS for package in find_packages(include=[folder, f"{folder}.*"])]

setup(
    packages=["smartbatch", *(f"smartbatch.{package}" for package in INSIDE)],
    package_dir={f"smartbatch.{folder}": folder for folder in FOLDERS},
)
