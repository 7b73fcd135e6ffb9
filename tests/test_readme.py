"""What the README says is shown by a test is shown by one."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_every_fault_in_the_table_has_its_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("| what is wrong | what happens | shown by |")[1].split("\n\n")[0].splitlines()[2:]
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)", written, re.MULTILINE))
    named = [re.findall(r"`(test_\w+)`", line.split("|")[3]) for line in table]
    assert len(named) > 25 and all(named)
    assert {name for names in named for name in names} <= defined
