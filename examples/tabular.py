"""Classify rows of a table: four measurements of a flower in, its species out.

    pip install scikit-learn
    smartbatch up --model examples/tabular.py:Iris

or `make up MODEL=examples/tabular.py:Iris`, then

    curl localhost:8000/predict -H 'content-type: application/json' -d '{"data": [[5.1, 3.5, 1.4, 0.2]]}'

The smallest complete example. When it loads, it trains on scikit-learn's copy of the iris data, in less than a second.
"""

from typing import Any

import torch
from sklearn.datasets import load_iris

from smartbatch import InputSpec, InvalidInput, to_torch

MEASUREMENTS = 4  # sepal length, sepal width, petal length, petal width; in cm


class Iris:
    input = InputSpec(("tensor",), "float32", (MEASUREMENTS,))

    def load(self, device):
        data: Any = load_iris()
        self.species = [str(name) for name in data.target_names]
        x = torch.tensor(data.data, dtype=torch.float32)  # (150, 4)
        y = torch.tensor(data.target)  # (150,)
        # training from zeros gives every worker the same weights
        weight = torch.zeros(MEASUREMENTS, 3, requires_grad=True)
        bias = torch.zeros(3, requires_grad=True)
        self.mean, self.std = x.mean(0).to(device), x.std(0).to(device)
        optimizer = torch.optim.Adam([weight, bias], lr=0.1)
        z = (x - x.mean(0)) / x.std(0)
        for _ in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(z @ weight + bias, y).backward()
            optimizer.step()
        self.weight, self.bias = weight.detach().to(device), bias.detach().to(device)

    def decode(self, payload):
        """Return one tensor per flower. JSON numbers arrive as float32 or float64; a batch needs one type."""
        tensor = payload.content
        if payload.kind != "tensor" or tuple(tensor.shape[1:]) != (MEASUREMENTS,):
            got = list(tensor.shape) if payload.kind == "tensor" else payload.kind
            raise InvalidInput(f"expected a tensor of shape ['rows', {MEASUREMENTS}], got {got}")
        return list(to_torch(tensor).float())

    def forward(self, batch):
        return ((batch - self.mean) / self.std @ self.weight + self.bias).softmax(1)  # (rows, 3)

    def encode(self, row):
        best = int(row.argmax())
        return {"species": self.species[best], "probability": float(row[best])}
