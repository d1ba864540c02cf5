"""The output that docs/cli.md shows, printed anew: `python -m tests.cli.page` writes it into the page.

A block of the page that begins with `$ smartroute` is what that command says, with three endpoints on this machine: a
route in Arizona that is well, one in Frankfurt whose key is wrong, and the global endpoint.
"""

import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from smartroute.testing import Region
from tests.cli.kit import CONSOLE, DEPLOYMENT, DIRECT, HOST, MODEL, OTHER, Done, python_in, secured
from tests.environments import ROOT

__all__ = ["BLOCK", "PAGE", "likeness", "said", "setting"]

PAGE = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"^```console\n\$ smartroute ?(?P<arguments>[^\n]*)\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)


@contextmanager
def setting() -> Iterator[tuple[Path, dict[str, str]]]:
    """The endpoints. Gives the folder with the file and the variables that name them."""
    authority = trustme.CA(organization_name="Example Trust", organization_unit_name="")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority.cert_pem.write_to_path(f"{folder / 'authority.pem'}")

        def region(name: str, **options: object) -> Region:
            ends = datetime.now(UTC) + timedelta(days=61.5)
            return stack.enter_context(secured(authority.issue_cert(HOST, not_after=ends), name, **options))

        arizona = region("us-arizona-1", latency=0.012, api_keys=[DIRECT], models=[MODEL])
        frankfurt = region("eu-frankfurt-1", latency=0.095, api_keys=[OTHER], models=[MODEL])
        world = region("global", latency=0.048, api_keys=[CONSOLE], models=[DEPLOYMENT], prefix="/inference/v1")
        file = folder / "smartroute.toml"
        file.write_text(
            "\n".join(
                f'[[route]]\naddress = "{each.url}"\nname = "{each.name}"\nregion = "{each.name}"\nmodel = "{MODEL}"\n'
                for each in (arizona, frankfurt)
            )
        )
        yield (
            folder,
            {
                "SMARTROUTE_CONFIG": "smartroute.toml",
                "SMARTROUTE_API_KEY": DIRECT,
                "SMARTROUTE_GLOBAL_URL": world.url,
                "SMARTROUTE_GLOBAL_API_KEY": CONSOLE,
                "SMARTROUTE_GLOBAL_MODEL": DEPLOYMENT,
                "SSL_CERT_FILE": f"{folder / 'authority.pem'}",
            },
        )


def said(arguments: str, folder: Path, variables: dict[str, str]) -> Done:
    """What the command says."""
    return python_in(folder, ("-m", "smartroute.cli", *shlex.split(arguments)), variables)


def likeness(output: str, *, ordered: bool = True) -> list[str]:
    """What two runs have in common: all but figures and widths."""
    lines = [re.sub(r"\d+(\.\d+)?", "#", re.sub(r"\s+", " ", line)).strip() for line in output.splitlines()]
    return lines if ordered else sorted(lines)


def main() -> None:
    """Write the page anew."""
    with setting() as (folder, variables):

        def anew(block: re.Match[str]) -> str:
            output = said(block["arguments"], folder, variables).output
            command = f"$ smartroute {block['arguments']}".rstrip()
            return f"```console\n{command}\n{output}```"

        PAGE.write_text(BLOCK.sub(anew, PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
