"""The status and metadata documents, from TF Serving's own protocol buffers.

Source: TF Serving REST API, "Model status API" and "Model Metadata API".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serve.local.session import Signature
from serve.local.versions import State, Version


def status_document(versions: Iterable[Version]) -> dict[str, Any]:
    """One entry per version ever known, highest first."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version in sorted(versions, key=lambda version: version.number, reverse=True):
        entry = response.model_version_status.add(version=version.number, state=version.state)
        entry.status.SetInParent()  # printed even where it is OK
        if version.error and version.state == State.END:  # not while it will be tried again
            entry.status.error_code = error_codes_pb2.Code.Value(version.error.code)
            entry.status.error_message = version.error.message
    return _members(response)


def metadata_document(model_name: str, version: int, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """The signatures of one version."""
    spec = model_pb2.ModelSpec(name=model_name)
    spec.version.value = version
    definitions = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in signatures.items():
        definitions.signature_def[name].CopyFrom(signature.definition)
    return {"model_spec": _members(spec), "metadata": {"signature_def": _members(definitions)}}


def _members(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
