"""Checks deploy/compose.yaml; called by deploy/check.sh from the repository root.

Arguments: a file to write to, one line for each `huitong` command that compose runs; the path of the image's binary.
Standard input: the Dockerfile's instructions, one to a line. Prints lines that begin with `ok` or `fail`.
"""

import re
import subprocess
import sys
from pathlib import Path

import yaml

COMPOSE = Path("deploy/compose.yaml")


def main():
    commands_file, image_binary = sys.argv[1:]
    dockerfile = sys.stdin.read()
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    services = compose["services"]

    for wanted in ("regional", "provider", "consumer", "invites"):
        check(wanted in services, f"has the service {wanted}")

    owned = set(re.findall(r"(?<=\s)/\S+", " ".join(re.findall(r"install -d ([^&\n]*)", dockerfile))))
    uid = re.search(r"--uid (\d+)", dockerfile)[1]
    named_volumes = set()
    commands = []
    for name, service in services.items():
        check_build(name, service)
        check_dependencies(name, service, services)
        targets = {}
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            targets[target] = source
            if source.startswith("."):
                check((COMPOSE.parent / source).exists(), f"{name}: mounted {source} exists in the repository")
            else:
                named_volumes.add(source)
                check(target in owned, f"{name}: the image gives {target} to its user before volume {source} covers it")
        for mount in service.get("tmpfs", []):
            check("uid=" not in mount or f"uid={uid}," in mount, f"{name}: {mount} belongs to the image's user, {uid}")
        for command in commands_of(name, service, image_binary):
            commands.append(command)
            config = re.search(r"--config (\S+)", command)
            check(config and config[1] in targets, f"{name}: the configuration of `{command}` is mounted")
    declared = set(compose["volumes"])
    check(declared == named_volumes, f"volumes declared and used are the same: {', '.join(sorted(declared | named_volumes))}")
    Path(commands_file).write_text("".join(command + "\n" for command in commands), encoding="utf-8")


def check_build(name, service):
    context = COMPOSE.parent / service["build"]["context"]
    dockerfile = context / service["build"]["dockerfile"]
    check(dockerfile.resolve() == Path("deploy/Dockerfile").resolve(), f"{name}: is built from deploy/Dockerfile")


def check_dependencies(name, service, services):
    for other in service.get("depends_on", []):
        check(other in services, f"{name}: waits for {other}, which exists")


def commands_of(name, service, image_binary):
    """The `huitong` commands that a service runs, without the name of the binary."""
    command = service["command"]
    if "entrypoint" not in service:
        return [" ".join(command)]
    script = "\n".join(command).replace("$$", "$")
    valid = subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    check(valid, f"{name}: its script is valid shell")
    binary = Path(image_binary)
    check(str(binary.parent) in ("/usr/bin", "/usr/local/bin"), f"{name}: finds {binary} on the path")
    found = re.findall(rf"(?<![\w/.-]){binary.name} ([a-z][^;&|\n]*)", script)
    check(found, f"{name}: its script runs {binary.name}")
    return [line.strip() for line in found]


def check(holds, what):
    print("ok" if holds else "fail", what)


try:
    main()
except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
    check(False, f"compose.yaml cannot be checked: {error!r}")
    sys.exit(1)
