"""The machine-readable metadata of calls and failures."""

from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status


def error_info(error):
    """The google.rpc.ErrorInfo in the trailing metadata of a failed call."""
    [details] = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = Status.FromString(details)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    [info] = [detail for detail in status.details if detail.Is(ErrorInfo.DESCRIPTOR)]
    return ErrorInfo.FromString(info.value)


def assert_failure(error, code, reason, **metadata):
    assert error is not None, f"no failure, in place of {reason}"
    assert error.code() == code, error
    info = error_info(error)
    assert (info.domain, info.reason) == ("muxs", reason)
    assert dict(info.metadata) == {key: str(value) for key, value in metadata.items()}


def request_id(call):
    """The request ID of a call, which comes with the first metadata of the answer."""
    # The trailers are awaited only if there is no initial metadata.
    for metadata in [call.initial_metadata, call.trailing_metadata]:
        values = [value for key, value in metadata() or () if key == "x-request-id"]
        if values:
            [known] = values
            return known
    raise AssertionError("the call has no x-request-id")
