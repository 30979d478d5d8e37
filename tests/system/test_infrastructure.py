"""The bucket and the roles of deploy/aws: deployed to a simulated AWS, their policies put before a real S3 server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from moto import mock_aws
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import clean_json
from moto.core import DEFAULT_ACCOUNT_ID

from crashcast.doctor.bucket import SCRATCH
from crashcast.versioning import local_s3

pytestmark = pytest.mark.ci

DEPLOY = Path(__file__).parents[2] / "deploy/aws"
TEMPLATE = DEPLOY / "remote.yaml"
REGION, BUCKET, PREFIX = "eu-central-1", local_s3.BUCKET, "team/dvc"
PEOPLE = {
    "Readers": f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:root",
    "Writers": f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/ci",
    "Keepers": f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/ann,arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/bob",
}
PROVIDER, SUBJECT = "token.actions.githubusercontent.com", "repo:team/fleet:environment:review"
ROLES = ("reader", "writer", "keeper")
ADMIN = "admin"


@pytest.fixture(scope="module")
def aws() -> Iterator[boto3.Session]:
    """Return a session with a simulated AWS in which the template is deployed."""
    parameters = {
        "BucketName": BUCKET,
        "Prefix": PREFIX,
        **PEOPLE,
        "IdentityProvider": PROVIDER,
        "ReviewSubject": SUBJECT,
    }
    with mock_aws():
        session = boto3.Session(region_name=REGION)
        with pytest.warns(UserWarning, match="BucketPolicy"):  # moto's CloudFormation has none
            session.client("cloudformation").create_stack(
                StackName="remote",
                TemplateBody=TEMPLATE.read_text(),
                Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
                Capabilities=["CAPABILITY_IAM"],
            )
        yield session


@pytest.fixture(scope="module")
def outputs(aws: boto3.Session) -> dict[str, str]:
    stack = aws.client("cloudformation").describe_stacks(StackName="remote")["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.fixture(scope="module")
def properties(aws: boto3.Session) -> Callable[[str], Any]:
    """Resolve the properties of a resource, as moto's parser does; moto itself ignores most of those of a bucket."""
    (stack,) = cloudformation_backends[DEFAULT_ACCOUNT_ID][REGION].stacks.values()
    return lambda name: clean_json(stack.template_dict["Resources"][name]["Properties"], stack.resource_map)


@pytest.fixture(scope="module")
def template(aws: boto3.Session) -> dict[str, Any]:
    """Return the template as it is written."""
    (stack,) = cloudformation_backends[DEFAULT_ACCOUNT_ID][REGION].stacks.values()
    return stack.template_dict


@pytest.fixture(scope="module")
def policies(aws: boto3.Session, outputs: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return each role's policies by their names."""
    iam = aws.client("iam")

    def document(arn: str) -> Any:
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]

    def attached(role: str) -> list[Any]:
        name = outputs[f"{role.title()}Role"].split("/")[-1]
        assert iam.list_role_policies(RoleName=name)["PolicyNames"] == []
        return iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]

    roles = (*ROLES, "reviewer")
    return {role: {policy["PolicyName"]: document(policy["PolicyArn"]) for policy in attached(role)} for role in roles}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(documents: dict[str, Any]) -> list[Any]:
    return [statement for document in documents.values() for statement in document["Statement"]]


def actions(documents: dict[str, Any]) -> set[str]:
    return {action for statement in statements(documents) for action in listed(statement["Action"])}


def test_the_template_is_valid_by_cloudformations_own_rules() -> None:
    command = [Path(sys.executable).with_name("cfn-lint"), "--non-zero-exit-code", "informational", TEMPLATE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_was_deployed_is_encrypted_with_a_key_that_rotates(aws: boto3.Session, outputs: dict[str, str]) -> None:
    s3, kms = aws.client("s3"), aws.client("kms")

    def encryption(bucket: str) -> dict[str, str]:
        (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        return rule["ApplyServerSideEncryptionByDefault"]

    assert encryption(BUCKET) == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": outputs["KeyArn"]}
    assert encryption(outputs["LogBucket"]) == {"SSEAlgorithm": "AES256"}
    assert kms.get_key_rotation_status(KeyId=outputs["KeyArn"])["KeyRotationEnabled"]
    assert outputs["RemoteUrl"] == f"s3://{BUCKET}/{PREFIX}"
    assert outputs["Region"] == REGION


def test_only_those_named_take_a_role(aws: boto3.Session, outputs: dict[str, str]) -> None:
    iam = aws.client("iam")
    for role in ROLES:
        trust = iam.get_role(RoleName=outputs[f"{role.title()}Role"].split("/")[-1])["Role"]["AssumeRolePolicyDocument"]
        (statement,) = trust["Statement"]
        assert statement["Action"] == "sts:AssumeRole"
        assert listed(statement["Principal"]["AWS"]) == PEOPLE[f"{role.title()}s"].split(",")


def test_the_job_that_fetches_for_a_review_takes_its_role_by_identity_alone(
    aws: boto3.Session, outputs: dict[str, str], policies: dict[str, dict[str, Any]]
) -> None:
    name = outputs["ReviewerRole"].split("/")[-1]
    (statement,) = aws.client("iam").get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Federated": f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:oidc-provider/{PROVIDER}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {f"{PROVIDER}:aud": "sts.amazonaws.com"},
            "StringLike": {f"{PROVIDER}:sub": SUBJECT},
        },
    }
    assert policies["reviewer"] == policies["reader"]


@pytest.mark.parametrize("name", ["Readers", "Writers", "Keepers"])
def test_no_role_can_be_opened_to_everybody(template: dict[str, Any], name: str) -> None:
    pattern = template["Parameters"][name]["AllowedPattern"]

    assert all(re.fullmatch(pattern, arn) for arn in ",".join(PEOPLE.values()).split(","))
    for wrong in ("*", "arn:aws:iam::*:root", f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/*", ""):
        assert not re.fullmatch(pattern, wrong), wrong


def test_roles_hold_named_actions_on_this_bucket_and_its_key_alone(
    policies: dict[str, dict[str, Any]], outputs: dict[str, str]
) -> None:
    bucket = f"arn:aws:s3:::{BUCKET}"
    for role in ROLES:
        for statement in statements(policies[role]):
            assert statement["Effect"] == "Allow"
            assert not any("*" in action for action in listed(statement["Action"])), statement
            services = {action.split(":")[0] for action in listed(statement["Action"])}
            if services == {"kms"}:
                assert statement["Resource"] == outputs["KeyArn"]
                assert statement["Condition"] == {"StringEquals": {"kms:ViaService": f"s3.{REGION}.amazonaws.com"}}
            else:
                assert services == {"s3"}
                assert statement["Resource"] in (bucket, f"{bucket}/{PREFIX}/*"), statement


def test_each_role_adds_to_the_readers_what_it_is_for(policies: dict[str, dict[str, Any]]) -> None:
    can = {role: actions(policies[role]) for role in ROLES}

    assert not any(re.search(":(?!Get|List|Decrypt)", action) for action in can["reader"])
    assert can["writer"] - can["reader"] == {
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:ListBucketVersions",
        "s3:GetObjectVersion",
        "kms:GenerateDataKey",
    }
    assert can["keeper"] - can["reader"] == {"s3:DeleteObject"}
    assert can["reader"] < can["writer"]
    assert can["reader"] < can["keeper"]


def test_wildcards_elsewhere_only_refuse_but_for_the_accounts_own_hold_on_the_key(
    properties: Callable[[str], Any],
) -> None:
    documents = {
        name: properties(name)["KeyPolicy" if name == "Key" else "PolicyDocument"]
        for name in ("Key", "BucketPolicy", "LogPolicy")
    }
    wide = [
        statement["Sid"]
        for statement in statements(documents)
        if statement["Effect"] == "Allow" and re.search(r'"\*"|:\*"', json.dumps(statement))
    ]

    assert wide == ["AccountAdministers"]
    (key,) = documents["Key"]["Statement"]
    assert key["Principal"] == {"AWS": f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:root"}


@pytest.mark.parametrize("name", ["Bucket", "Log"])
def test_buckets_are_private_and_keep_old_versions(properties: Callable[[str], Any], name: str) -> None:
    bucket = properties(name)

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}


def test_old_versions_and_unfinished_uploads_go_in_time_and_nothing_else(properties: Callable[[str], Any]) -> None:
    old, unfinished, scratch = properties("Bucket")["LifecycleConfiguration"]["Rules"]

    assert {rule["Status"] for rule in (old, unfinished, scratch)} == {"Enabled"}
    assert old["NoncurrentVersionExpiration"]["NoncurrentDays"] == 180
    assert unfinished["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 7
    assert not {"ExpirationInDays", "ExpirationDate", "Transitions"} & (old.keys() | unfinished.keys())
    assert scratch["Prefix"] == f"{PREFIX}/{SCRATCH}/"  # the one rule that removes what is current


def test_accesses_are_logged_where_only_s3_itself_writes(
    properties: Callable[[str], Any], outputs: dict[str, str]
) -> None:
    logging = properties("Bucket")["LoggingConfiguration"]
    (allowed,) = [part for part in properties("LogPolicy")["PolicyDocument"]["Statement"] if part["Effect"] == "Allow"]

    assert logging["DestinationBucketName"] == outputs["LogBucket"]
    assert allowed["Principal"] == {"Service": "logging.s3.amazonaws.com"}
    assert allowed["Resource"] == f"arn:aws:s3:::{outputs['LogBucket']}/{logging['LogFilePrefix']}*"
    assert allowed["Condition"]["ArnEquals"] == {"aws:SourceArn": f"arn:aws:s3:::{BUCKET}"}


def test_what_holds_data_outlives_its_stack(template: dict[str, Any]) -> None:
    for name, resource in template["Resources"].items():
        keeps = {resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy")}
        assert keeps == ({"Retain"} if name in ("Key", "Bucket", "Log") else {None}), name


def test_the_readme_names_every_parameter_that_must_be_given_and_every_output(
    template: dict[str, Any], outputs: dict[str, str]
) -> None:
    needed = {name for name, parameter in template["Parameters"].items() if "Default" not in parameter}
    readme = (DEPLOY / "README.md").read_text()

    assert needed == {"BucketName", *PEOPLE}
    assert [name for name in needed | outputs.keys() if name not in readme] == []


# From here on a real server holds the deployed policies against each request.


def refused(request: Callable[[], Any]) -> bool:
    """Return whether the server said AccessDenied, for a batch to each of its objects."""
    try:
        errors = request().get("Errors", [])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        return code == "AccessDenied"  # other errors (missing, no such key at KMS) come after permission was given
    return bool(errors) and {error["Code"] for error in errors} == {"AccessDenied"}


@pytest.fixture
def server(policies: dict[str, dict[str, Any]], port: int, tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Run an S3 server that knows the roles by their deployed policies; give the environment of one, or of an admin."""
    identities = [{"name": role, "policyNames": list(policies[role])} for role in ROLES]
    identities.append({"name": ADMIN, "actions": ["Admin"]})
    documents = {name: document for role in ROLES for name, document in policies[role].items()}
    configuration = tmp_path / "identities.json"
    configuration.write_text(
        json.dumps(
            {
                "identities": [
                    identity | {"credentials": [{"accessKey": identity["name"], "secretKey": identity["name"]}]}
                    for identity in identities
                ],
                "policies": [{"name": name, "content": json.dumps(document)} for name, document in documents.items()],
            }
        )
    )
    store = tmp_path / "store"
    store.mkdir()

    no_settings = tmp_path / "no-settings"
    no_settings.touch()

    def environment(name: str) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith("AWS_")} | {
            "AWS_ACCESS_KEY_ID": name,
            "AWS_SECRET_ACCESS_KEY": name,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": local_s3.endpoint(port),
            "AWS_CONFIG_FILE": str(no_settings),
            "AWS_SHARED_CREDENTIALS_FILE": str(no_settings),
        }

    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*local_s3._server_command(port), f"-s3.config={configuration}"],
            cwd=store,
            env={"HOME": str(store), "GOMEMLIMIT": local_s3.MEMORY_LIMIT},
            stdout=log,
            stderr=log,
            preexec_fn=local_s3._die_with_parent,
        )
        try:
            admin = client(environment(ADMIN))
            deadline = time.monotonic() + local_s3.READY_TIMEOUT_S
            while True:
                try:
                    admin.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
                    admin.put_object(Bucket=BUCKET, Key=f"{PREFIX}/object", Body=b"first")
                    admin.put_object(Bucket=BUCKET, Key="elsewhere/object", Body=b"not ours")
                    break
                except (BotoCoreError, ClientError):
                    assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                    time.sleep(0.1)
            yield environment
        finally:
            process.kill()
            process.wait()


def client(environment: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        region_name=environment["AWS_DEFAULT_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def upload_in_parts(s3: Any, key: str) -> dict[str, Any]:
    upload = {"Bucket": BUCKET, "Key": key}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    etag = s3.upload_part(**upload, PartNumber=1, Body=b"part")["ETag"]
    return s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})


def give_up_an_upload(s3: Any, key: str) -> dict[str, Any]:
    upload = {"Bucket": BUCKET, "Key": key}
    return s3.abort_multipart_upload(**upload, UploadId=s3.create_multipart_upload(**upload)["UploadId"])


def test_each_role_can_do_what_it_is_for_and_nothing_else(server: Callable[[str], dict[str, str]]) -> None:
    admin = client(server(ADMIN))
    ours, theirs, new = f"{PREFIX}/object", "elsewhere/object", f"{PREFIX}/new"

    def outcome(role: str) -> set[str]:
        s3 = client(server(role))
        version = admin.put_object(Bucket=BUCKET, Key=ours, Body=b"second")["VersionId"]
        at = {"Bucket": BUCKET, "Key": ours}
        old = {"Bucket": BUCKET, "Key": ours, "VersionId": version}
        requests: dict[str, Callable[[], Any]] = {
            "list": lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX),
            "get": lambda: s3.get_object(**at),
            "see that an object is missing": lambda: s3.head_object(Bucket=BUCKET, Key=f"{PREFIX}/missing"),
            "see whether versions are kept": lambda: s3.get_bucket_versioning(Bucket=BUCKET),
            "get elsewhere": lambda: s3.get_object(Bucket=BUCKET, Key=theirs),
            "list versions": lambda: s3.list_object_versions(Bucket=BUCKET, Prefix=PREFIX),
            "get a version": lambda: s3.get_object(**old),
            "put": lambda: s3.put_object(Bucket=BUCKET, Key=new, Body=b"new"),
            "put in parts": lambda: upload_in_parts(s3, new),
            "give up an upload": lambda: give_up_an_upload(s3, new),
            "put a version back": lambda: s3.copy_object(**at, CopySource=old),
            "put elsewhere": lambda: s3.put_object(Bucket=BUCKET, Key=theirs, Body=b"ours"),
            "delete a version": lambda: s3.delete_object(**old),
            "delete versions": lambda: s3.delete_objects(
                Bucket=BUCKET, Delete={"Objects": [{"Key": ours, "VersionId": version}]}
            ),
            "delete many": lambda: s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": ours}]}),
            "delete": lambda: s3.delete_object(**at),
            "delete elsewhere": lambda: s3.delete_object(Bucket=BUCKET, Key=theirs),
            "stop keeping versions": lambda: s3.put_bucket_versioning(
                Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}
            ),
            "change who may": lambda: s3.put_bucket_policy(Bucket=BUCKET, Policy="{}"),
            "change what is kept": lambda: s3.delete_bucket_lifecycle(Bucket=BUCKET),
            "delete the bucket": lambda: s3.delete_bucket(Bucket=BUCKET),
        }
        return {name for name, request in requests.items() if not refused(request)}

    reading = {"list", "get", "see that an object is missing", "see whether versions are kept"}
    putting = {"put", "put in parts", "give up an upload"}
    restoring = {"list versions", "get a version", "put a version back"}
    assert outcome("reader") == reading
    assert outcome("writer") == reading | putting | restoring
    assert outcome("keeper") == reading | {"delete", "delete many"}


def test_the_bucket_refuses_what_its_policy_refuses_to_everybody(
    server: Callable[[str], dict[str, str]], properties: Callable[[str], Any], outputs: dict[str, str]
) -> None:
    policy = properties("BucketPolicy")["PolicyDocument"]
    over_tls = policy | {"Statement": [part for part in policy["Statement"] if part["Sid"] != "TlsOnly"]}
    admin, writer = client(server(ADMIN)), client(server("writer"))
    at = {"Bucket": BUCKET, "Key": f"{PREFIX}/object"}
    version = admin.put_object(**at)["VersionId"]
    key = outputs["KeyArn"]

    admin.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(over_tls))
    for s3 in (writer, admin):
        assert not refused(lambda s3=s3: s3.put_object(**at))  # the bucket's own encryption
        assert not refused(lambda s3=s3: s3.put_object(**at, ServerSideEncryption="aws:kms", SSEKMSKeyId=key))
        for less in (
            {"ServerSideEncryption": "AES256"},
            {"ServerSideEncryption": "aws:kms"},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key.replace(DEFAULT_ACCOUNT_ID, "210987654321")},
        ):
            assert refused(lambda s3=s3, less=less: s3.put_object(**at, **less)), less
            assert refused(lambda s3=s3, less=less: s3.create_multipart_upload(**at, **less)), less
        assert refused(lambda s3=s3: s3.delete_object(**at, VersionId=version))

    admin.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))  # this server speaks plain HTTP
    assert refused(lambda: writer.get_object(**at))
    assert refused(lambda: writer.put_object(**at))


def test_a_key_of_the_uploaders_own_is_refused(properties: Callable[[str], Any]) -> None:
    # boto3 sends such a key over TLS alone, and the server here has none: the statement is read instead
    (statement,) = [
        part
        for part in properties("BucketPolicy")["PolicyDocument"]["Statement"]
        if part["Sid"] == "NoKeyOfTheUploader"
    ]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:PutObject")
    assert statement["Condition"] == {"Null": {"s3:x-amz-server-side-encryption-customer-algorithm": "false"}}


def test_dvc_pushes_as_the_writer_pulls_as_the_reader_and_collects_as_the_keeper(
    server: Callable[[str], dict[str, str]], port: int, tmp_path: Path, shell: Callable[..., object]
) -> None:
    def dvc(role: str, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["dvc", *arguments]
        return subprocess.run(command, cwd=project, env=server(role), text=True, capture_output=True)

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours / ".dvc", ours / "data"):
        folder.mkdir(parents=True)
    (ours / ".dvc/config").write_text(
        f"[core]\n    remote = s3\n['remote \"s3\"']\n    url = s3://{BUCKET}/{PREFIX}\n"
        f"    endpointurl = {local_s3.endpoint(port)}\n"
    )
    (ours / ".dvc/.gitignore").write_text("/cache\n/tmp\n")
    for number, name in enumerate(("one", "two"), start=1):
        (ours / "data" / name).write_text(f"{number}\n")
    shell("git init -q", cwd=ours)
    shell("dvc add -q data && git add -A && git commit -q -m one", cwd=ours)
    shell(f"git clone -q {ours} {theirs}")

    pushed = dvc("writer", ours, "push")
    assert pushed.returncode == 0, pushed.stderr
    assert "3 files pushed" in pushed.stdout
    pulled = dvc("reader", theirs, "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert (theirs / "data/two").read_text() == "2\n"

    shell("echo 3 > data/two && dvc add -q data", cwd=theirs)
    refused_push = dvc("reader", theirs, "push")
    assert refused_push.returncode != 0
    assert "Access Denied" in refused_push.stderr

    objects = client(server(ADMIN))
    remote = {"Bucket": BUCKET, "Prefix": f"{PREFIX}/files/"}
    before = {entry["Key"] for entry in objects.list_objects_v2(**remote)["Contents"]}
    assert len(before) == 3
    dvc("writer", theirs, "gc", "--workspace", "--cloud", "--force")  # its status would be 0 all the same
    assert {entry["Key"] for entry in objects.list_objects_v2(**remote)["Contents"]} == before

    collected = dvc("keeper", theirs, "gc", "--workspace", "--cloud", "--force")
    assert collected.returncode == 0, collected.stderr
    gone = before - {entry["Key"] for entry in objects.list_objects_v2(**remote).get("Contents", [])}
    assert len(gone) == 2  # `2` and the folder's list; `1` is still in use

    writer = client(server("writer"))
    for version in writer.list_object_versions(**remote)["Versions"]:
        if version["Key"] in gone:
            at = {"Bucket": BUCKET, "Key": version["Key"]}
            writer.copy_object(**at, CopySource=at | {"VersionId": version["VersionId"]})
    assert {entry["Key"] for entry in objects.list_objects_v2(**remote)["Contents"]} == before
    shell("git checkout -q . && rm -rf .dvc/cache data", cwd=theirs)
    again = dvc("reader", theirs, "pull")
    assert again.returncode == 0, again.stderr
    assert (theirs / "data/two").read_text() == "2\n"
