"""What a call says to programs beside its answers, and how it fails."""

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
    """What the server calls a call. It says so as soon as it says anything."""
    # The end is only waited for where there is nothing before.
    for metadata in [call.initial_metadata, call.trailing_metadata]:
        told = [value for key, value in metadata() or () if key == "x-request-id"]
        if told:
            [known] = told
            return known
    raise AssertionError("the call has no x-request-id")
