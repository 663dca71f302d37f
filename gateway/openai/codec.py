"""What the codecs of embeddings and rerank share: a JSON body that names the model, and errors in OpenAI's form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from smartbatch.gateway.formats.render import response_headers
from smartbatch.gateway.inference.codec import COMMON_HEADERS, Codec, Headers, Response
from smartbatch.gateway.inference.predict import read_model
from smartbatch.gateway.openai.errors import JSON, openai_error
from smartbatch.gateway.openai.types import Usage
from smartbatch.shared.errors import BodyTimeout, InvalidInput, MalformedBody
from smartbatch.shared.wire import Reply, Tensor

_JSON_HEADER = (b"content-type", JSON.encode())


class JsonCodec(Codec):
    """`decoder` decodes the body to a struct with a `model`; `dimensions` are those of the one output that is wanted,
    and `wanted` says what it is."""

    header_names = COMMON_HEADERS
    model_in_body = True
    path: ClassVar[str]
    decoder: ClassVar[msgspec.json.Decoder[Any]]
    dimensions: ClassVar[int]
    wanted: ClassVar[str]
    _body: Any

    def parse_head(self, headers: Mapping[bytes, str], query: bytes) -> None:
        pass

    def check_head(self) -> None:
        pass

    def read_body(self, body: bytes) -> None:
        self._body = read_json(self.decoder, body)
        if self._body.model:
            self.model, self.version = read_model(self._body.model)

    def render_reply(
        self, reply: Reply, timing_ms: dict[str, float], *, model: str, version: int, request_id: str, client_id: str
    ) -> Response:
        tensor = _only_output(reply, self.dimensions)
        if tensor is None:
            raise InvalidInput(f"the model {model} doesn't return {self.wanted}")
        tokens = reply.result.tokens if reply.result else 0
        content = self._content(tensor, Usage(tokens, tokens), model, request_id)
        headers: Headers = [_JSON_HEADER, *response_headers(client_id, reply.batch, timing_ms)]
        return Response(200, headers, msgspec.json.encode(content))

    @abstractmethod
    def _content(self, tensor: Tensor, usage: Usage, model: str, request_id: str) -> msgspec.Struct:
        """Return the content of the response. Raises InvalidInput."""

    def render_error(self, error: Exception, *, request_id: str, client_id: str) -> Response:
        status, headers, content = openai_error(error, request_id)
        headers["x-request-id"] = client_id
        if isinstance(error, BodyTimeout):
            headers["connection"] = "close"
        return Response(status, [(k.encode(), v.encode("latin-1", "replace")) for k, v in headers.items()], content)

    def span(self) -> tuple[str, Mapping[str, Any]]:
        path = self.path
        return f"POST {path}", {
            "http.request.method": "POST",
            "url.scheme": "http",
            "url.path": path,
            "http.route": path,
        }


def read_json(decoder: msgspec.json.Decoder[Any], body: Any, field: str = "") -> Any:
    """Decode the body, or one `field` of it. Raises MalformedBody or InvalidInput."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)[:300]
        if field and "`$" not in text:
            text += " - at `$`"
        raise InvalidInput(text.replace("`$", f"`{field}") if field else text.replace("`$.", "`")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body isn't JSON in UTF-8: {str(error)[:300]}") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None


def _only_output(reply: Reply, dimensions: int) -> Tensor | None:
    """Return the one float output with this many dimensions, or None."""
    outputs = (reply.result.outputs if reply.result else None) or {}
    if len(outputs) != 1:
        return None
    (tensor,) = outputs.values()
    return tensor if len(tensor.shape) == dimensions and tensor.dtype in ("float32", "float64") else None
