"""The training host of deploy/aws, deployed to a simulated AWS: reached by nobody, with few rights, and it stops."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from moto.core import DEFAULT_ACCOUNT_ID

pytestmark = pytest.mark.ci

DEPLOY = Path(__file__).parents[2] / "deploy/aws"
TEMPLATE = DEPLOY / "training.yaml"
REGION = "eu-central-1"
REMOTE_ROLE = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/crashcast-Writer-1"
OTHER_ROLE = f"arn:aws:iam::{DEFAULT_ACCOUNT_ID}:role/admin"


@pytest.fixture(scope="module")
def aws() -> Iterator[boto3.Session]:
    """Return a session with a simulated AWS in which the template is deployed."""
    with mock_aws():
        session = boto3.Session(region_name=REGION)
        ec2 = session.client("ec2")
        parameters = {
            "VpcId": ec2.describe_vpcs()["Vpcs"][0]["VpcId"],
            "SubnetId": ec2.describe_subnets()["Subnets"][0]["SubnetId"],
            "RemoteRole": REMOTE_ROLE,
        }
        image = ec2.describe_images()["Images"][0]["ImageId"]
        session.client("ssm").put_parameter(Name="/image", Value=image, Type="String")
        body = re.sub("Default: /aws/service/.*", "Default: /image", TEMPLATE.read_text())  # moto knows no Ubuntu
        session.client("cloudformation").create_stack(
            StackName="training",
            TemplateBody=body,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        yield session


@pytest.fixture(scope="module")
def outputs(aws: boto3.Session) -> dict[str, str]:
    stack = aws.client("cloudformation").describe_stacks(StackName="training")["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.fixture(scope="module")
def host(aws: boto3.Session, outputs: dict[str, str]) -> dict[str, Any]:
    found = aws.client("ec2").describe_instances(InstanceIds=[outputs["HostId"]])
    return dict(found["Reservations"][0]["Instances"][0])


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Takes CloudFormation's own tags as what they hold."""

    def plain(loader: Loader, _: str, node: yaml.Node) -> Any:
        kinds = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
        return kinds[type(node)](node)  # type: ignore[index, operator]

    Loader.add_multi_constructor("!", plain)
    return dict(yaml.load(TEMPLATE.read_text(), Loader)["Resources"])


@pytest.fixture(scope="module")
def allows(aws: boto3.Session, outputs: dict[str, str]) -> Callable[[str, str, str], bool]:
    """Return what says whether a deployed policy allows an action on a resource; none of them refuses anything."""
    iam = aws.client("iam")

    def document(arn: str) -> Any:
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        return iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]

    role = outputs["HostRole"].split("/")[-1]
    (attached,) = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    assert iam.list_role_policies(RoleName=role)["PolicyNames"] == []
    documents = {"host": document(attached["PolicyArn"]), "people": document(outputs["ConnectPolicy"])}

    def listed(value: Any) -> list[str]:
        return value if isinstance(value, list) else [value]

    def allows(who: str, action: str, resource: str) -> bool:
        return any(
            any(fnmatchcase(action, one) for one in listed(statement["Action"]))
            and any(fnmatchcase(resource, one) for one in listed(statement["Resource"]))
            for statement in documents[who]["Statement"]
        )

    return allows


def test_the_template_is_valid_by_cloudformations_own_rules() -> None:
    command = [Path(sys.executable).with_name("cfn-lint"), "--non-zero-exit-code", "informational", TEMPLATE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nothing_comes_in(aws: boto3.Session, host: dict[str, Any], resources: dict[str, Any]) -> None:
    assert resources["Host"]["Properties"]["SecurityGroupIds"] == ["Firewall.GroupId"]  # moto keeps none
    groups = aws.client("ec2").describe_security_groups()["SecurityGroups"]
    (group,) = [one for one in groups if one["Description"].startswith("Nothing comes in")]
    assert group["IpPermissions"] == []
    egress = resources["Firewall"]["Properties"]["SecurityGroupEgress"]  # moto keeps none either
    assert [(rule["FromPort"], rule["ToPort"]) for rule in egress] == [(443, 443), (80, 80)]
    assert not host.get("KeyName")


def test_the_host_may_take_one_role_and_be_reached(allows: Callable[[str, str, str], bool]) -> None:
    assert allows("host", "sts:AssumeRole", REMOTE_ROLE)
    assert allows("host", "ssmmessages:OpenDataChannel", "*")
    for action, resource in (
        ("sts:AssumeRole", OTHER_ROLE),
        ("s3:GetObject", "arn:aws:s3:::any/key"),
        ("ssm:GetParameter", "arn:aws:ssm:::parameter/secret"),
        ("ssm:SendCommand", "*"),
        ("iam:PassRole", OTHER_ROLE),
        ("ec2:StartInstances", "*"),
    ):
        assert not allows("host", action, resource), action


def test_people_may_use_this_host_and_no_other(
    allows: Callable[[str, str, str], bool], outputs: dict[str, str]
) -> None:
    machine = f"arn:aws:ec2:{REGION}:{DEFAULT_ACCOUNT_ID}:instance/"
    own = machine + outputs["HostId"]
    for action in ("ssm:StartSession", "ec2:StartInstances", "ec2:StopInstances"):
        assert allows("people", action, own)
        assert not allows("people", action, f"{machine}i-other")
    assert allows("people", "ssm:StartSession", f"arn:aws:ssm:{REGION}::document/AWS-StartPortForwardingSession")
    assert not allows("people", "ssm:StartSession", f"arn:aws:ssm:{REGION}::document/AWS-StartSSHSession")
    assert not allows("people", "ec2:TerminateInstances", own)
    assert not allows("people", "ssm:TerminateSession", f"arn:aws:ssm:{REGION}:{DEFAULT_ACCOUNT_ID}:session/ann-1")


def test_the_disk_is_encrypted_and_credentials_need_a_token(resources: dict[str, Any]) -> None:
    (disk,) = resources["Host"]["Properties"]["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"] is True
    options = resources["Template"]["Properties"]["LaunchTemplateData"]["MetadataOptions"]
    assert options == {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    assert resources["Host"]["Properties"]["LaunchTemplate"]["LaunchTemplateId"] == "Template"


def test_it_stops_by_itself_and_takes_the_remotes_role(
    aws: boto3.Session, host: dict[str, Any], resources: dict[str, Any], tmp_path: Path
) -> None:
    assert resources["Host"]["Properties"]["InstanceInitiatedShutdownBehavior"] == "stop"
    found = aws.client("ec2").describe_instance_attribute(InstanceId=host["InstanceId"], Attribute="userData")
    text = base64.b64decode(found["UserData"]["Value"]).decode()
    text = text if text.startswith("#") else base64.b64decode(text).decode()  # moto encodes it once more
    assert text.startswith("#cloud-config\n")
    settings = yaml.safe_load(text)
    files = {one["path"]: one["content"] for one in settings["write_files"]}
    assert f"role_arn = {REMOTE_ROLE}\n" in files["/home/ubuntu/.aws/config"]
    assert "OnBootSec=720min" in files["/etc/systemd/system/training-stop.timer"]
    assert settings["runcmd"] == [["systemctl", "enable", "--now", "training-stop.timer"]]
    if shutil.which("systemd-analyze"):
        units = [tmp_path / Path(path).name for path in files if path.startswith("/etc/systemd")]
        for unit in units:
            unit.write_text(files[f"/etc/systemd/system/{unit.name}"])
        done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_readme_names_every_parameter_that_must_be_given_and_every_output(outputs: dict[str, str]) -> None:
    template = TEMPLATE.read_text().partition("Resources:")[0]
    needed = {"VpcId", "SubnetId", "RemoteRole"}
    readme = (DEPLOY / "README.md").read_text()
    assert template.count("    Default: ") == template.count("    Type: ") - len(needed)
    assert [name for name in needed | outputs.keys() if name not in readme] == []
