from __future__ import annotations

import errno
import re

import pytest
from botocore import exceptions as boto
from s3fs.errors import translate_boto_error

from sam3lt_ray.config.schema import StorageSettings
from sam3lt_ray.errors import InputError, StorageError, StorageUnavailableError
from sam3lt_ray.storage.failures import describe_storage_failure, s3_error_code, s3_status

URI = "s3://bucket/shards/0.tar"
SETTINGS = StorageSettings(endpoint_url="http://store:8333", profile="mine")
PLANTED = "planted-secret-0123456789"


def answer(status: int, code: str) -> boto.ClientError:
    response = {
        "Error": {"Code": code, "Message": f"server says {PLANTED}", "AWSAccessKeyId": PLANTED},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return boto.ClientError(response, "GetObject")


@pytest.mark.parametrize("wrapped", [False, True], ids=["botocore", "s3fs"])
@pytest.mark.parametrize(
    ("status", "code", "kind", "sentence"),
    [
        (404, "NoSuchBucket", InputError, "The bucket of s3://bucket/shards/0.tar does not exist at http://store:8333"),
        (404, "NoSuchKey", InputError, "There is nothing at"),
        (404, "404", InputError, "There is nothing at"),
        (403, "AccessDenied", InputError, r"is denied \(AccessDenied\)"),
        (403, "403", InputError, "is denied .* set storage.requester_pays"),
        (403, "SomethingNew", InputError, "is denied"),
        (403, "InvalidAccessKeyId", InputError, "does not accept the credentials .* storage.profile"),
        (403, "SignatureDoesNotMatch", InputError, "does not accept the credentials"),
        (400, "ExpiredToken", StorageUnavailableError, "have expired"),
        (403, "RequestTimeTooSkewed", StorageError, "clock"),
        (301, "PermanentRedirect", InputError, "Set storage.region"),
        (400, "AuthorizationHeaderMalformed", InputError, "Set storage.region"),
        (400, "InvalidBucketName", InputError, "does not name a valid bucket"),
        (501, "NotImplemented", StorageError, "does not implement"),
        (503, "SlowDown", StorageUnavailableError, r"kept failing .* \(HTTP 503 SlowDown\)"),
        (500, "InternalError", StorageUnavailableError, r"kept failing"),
        (400, "EntityTooLarge", StorageError, r"refused the request .* \(HTTP 400 EntityTooLarge\)"),
    ],
)
def test_answers(wrapped: bool, status: int, code: str, kind: type[Exception], sentence: str) -> None:
    error: BaseException = answer(status, code)
    if wrapped:
        error = translate_boto_error(error)
        assert not isinstance(error, boto.ClientError)
    described = describe_storage_failure(error, URI, SETTINGS)
    assert type(described) is kind
    assert re.search(sentence, described.message)
    assert PLANTED not in described.message
    assert (s3_status(error), s3_error_code(error)) == (status, code)


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (boto.NoCredentialsError(), InputError, "There are no credentials for .*AWS_ACCESS_KEY_ID"),
        (boto.PartialCredentialsError(provider="env", cred_var="secret"), InputError, "There are no credentials"),
        (boto.ProfileNotFound(profile="mine"), InputError, "The profile 'mine'"),
        (boto.CredentialRetrievalError(provider="sso", error_msg=PLANTED), InputError, "could not be obtained"),
        (boto.ParamValidationError(report=PLANTED), InputError, "Expected s3://bucket/path"),
        (
            boto.EndpointConnectionError(endpoint_url=f"http://me:{PLANTED}@store:8333"),
            StorageUnavailableError,
            "The server at http://store:8333 cannot be reached",
        ),
        (boto.ConnectTimeoutError(endpoint_url="http://store"), StorageUnavailableError, "cannot be reached"),
        (boto.ReadTimeoutError(endpoint_url="http://store"), StorageUnavailableError, "broke again and again"),
        (boto.SSLError(endpoint_url="http://store", error="x"), StorageError, "AWS_CA_BUNDLE"),
        (boto.ConnectionClosedError(endpoint_url="http://store"), StorageUnavailableError, "broke again and again"),
        (RuntimeError(PLANTED), StorageError, r"failed \(RuntimeError\)"),
    ],
)
def test_no_answer(error: Exception, kind: type[Exception], sentence: str) -> None:
    described = describe_storage_failure(error, URI, SETTINGS)
    assert type(described) is kind
    assert re.search(sentence, described.message)
    assert PLANTED not in described.message


@pytest.mark.parametrize(
    ("number", "kind", "sentence"),
    [
        (errno.ENOENT, InputError, "There is nothing at /data/x"),
        (errno.EACCES, InputError, "This user may not access /data/x"),
        (errno.EISDIR, InputError, "is a directory, expected a file"),
        (errno.ENOTDIR, InputError, "a part of this path is a file"),
        (errno.EROFS, InputError, "mounted read-only"),
        (errno.ENAMETOOLONG, InputError, "too long"),
        (errno.ELOOP, InputError, "leads back to itself"),
        (errno.ENOSPC, StorageError, "The disk is full"),
        (errno.EDQUOT, StorageError, "quota"),
        (errno.EIO, StorageError, r"Input/output error \(EIO\)"),
    ],
)
def test_operating_system(number: int, kind: type[Exception], sentence: str) -> None:
    described = describe_storage_failure(OSError(number, PLANTED, PLANTED), "/data/x", StorageSettings())
    assert type(described) is kind
    assert re.search(sentence, described.message)
    assert PLANTED not in described.message


def test_denied_to_anonymous() -> None:
    described = describe_storage_failure(answer(403, "AccessDenied"), URI, StorageSettings(anonymous=True))
    assert "set storage.anonymous to false" in described.message


def test_described_errors_stay_as_they_are() -> None:
    error = StorageError("As it is.")
    assert describe_storage_failure(error, URI, SETTINGS) is error


def test_endpoint_of_the_environment_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://me:{PLANTED}@store.example")
    described = describe_storage_failure(answer(503, "SlowDown"), URI, StorageSettings())
    assert "at https://***@store.example kept" in described.message
