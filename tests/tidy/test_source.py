"""House rules that no linter knows, held by reading the source.

Each rule is a function from a module's source to the offences in it, so that a test can also show that it bites.
"""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "treehead"
GENERATED = LIBRARY / "v1"
COMPONENTS = (
    ROOT / "logserver" / "treehead_logserver",
    ROOT / "monitor" / "treehead_monitor",
    ROOT / "client" / "treehead_client",
)
ENCODING = LIBRARY / "encoding.py"

# Text codecs of the standard library accept more than one spelling of a value; `treehead.encoding` accepts one.
CODEC_MODULES = frozenset({"base64", "binascii", "codecs"})
CODEC_CALLS = frozenset({"b64decode", "fromhex", "unhexlify"})
JSON_READERS = frozenset({"load", "loads", "JSONDecoder"})
NUMBERS = frozenset({"int", "float", "complex"})
# Calls that name a type and convert nothing.
TYPE_CALLS = frozenset({"NewType", "TypeVar", "cast", "field", "isinstance", "issubclass"})
# A component converts numbers only where it reads what the machine's own user wrote.
NUMBERS_ALLOWED_IN = frozenset({"cli.py", "config.py"})
WEAK_NAMES = frozenset({"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"})


def modules(*folders: Path) -> list[Path]:
    """Every hand-written module below the folders, in a steady order."""
    found = (path for folder in folders for path in folder.rglob("*.py"))
    return sorted(path for path in found if GENERATED not in path.parents)


def lenient_codecs(source: str) -> list[str]:
    """Imports and calls of decoders that accept more than one spelling."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                used = [alias.name for alias in names if alias.name in CODEC_MODULES]
            case ast.ImportFrom(module=str(module), level=0) if module in CODEC_MODULES:
                used = [module]
            case ast.ImportFrom(module="json", level=0, names=names):
                used = [f"json.{alias.name}" for alias in names if alias.name in JSON_READERS]
            case ast.Attribute(value=ast.Name(id="json"), attr=attribute) if attribute in JSON_READERS:
                used = [f"json.{attribute}"]
            case ast.Call(args=[ast.Constant()]):
                continue  # a constant of the program's own is nobody's input
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in CODEC_CALLS:
                used = [name]
            case _:
                continue
        found += [f"line {node.lineno}: uses {name}" for name in used]
    return found


def bare_numbers(source: str) -> list[str]:
    """Calls of `int` or `float`, and their use as a function handed on: both take ' 1_0' for ten.

    Annotations, `isinstance(x, int)`, `int.from_bytes` and base classes name the type and convert nothing.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called in NUMBERS:
            found.append(f"line {node.lineno}: calls {called}")
        if called not in TYPE_CALLS:
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            handed_on = [name.id for name in arguments if isinstance(name, ast.Name) and name.id in NUMBERS]
            found += [f"line {node.lineno}: hands on {name}" for name in handed_on]
    return found


def missing_docstring(source: str) -> list[str]:
    """Say so if a module does not open with why it exists."""
    return [] if ast.get_docstring(ast.parse(source)) else ["no module docstring"]


def offences(rule: Callable[[str], list[str]], paths: list[Path]) -> list[str]:
    """Everything a rule finds in some files, each named by its place in the checkout."""
    return [
        f"{path.relative_to(ROOT)}: {offence}" for path in paths for offence in rule(path.read_text(encoding="utf-8"))
    ]


def test_text_is_decoded_only_in_encoding() -> None:
    paths = [path for path in modules(LIBRARY, *COMPONENTS) if path != ENCODING]
    assert offences(lenient_codecs, paths) == []


def test_the_library_reads_numbers_only_in_encoding() -> None:
    assert offences(bare_numbers, [path for path in modules(LIBRARY) if path != ENCODING]) == []


def test_a_component_reads_numbers_only_from_its_own_user() -> None:
    paths = [path for path in modules(*COMPONENTS) if path.name not in NUMBERS_ALLOWED_IN]
    assert offences(bare_numbers, paths) == []


def test_every_module_says_why_it_exists() -> None:
    # An empty __init__.py in a folder of a component only marks a package; the library has none of those.
    paths = [path for path in modules(LIBRARY, *COMPONENTS) if path.read_bytes().strip() or LIBRARY in path.parents]
    assert offences(missing_docstring, paths) == []


def test_modules_are_named_after_a_noun_of_the_field() -> None:
    paths = modules(LIBRARY, *COMPONENTS, ROOT / "tests", ROOT / "scripts")
    weak = [path for path in paths if WEAK_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)]
    assert [str(path.relative_to(ROOT)) for path in weak] == []


def test_the_contracts_for_pure_modules_cover_the_same_modules() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in linter["contracts"]}
    pure = {f"treehead.{name.strip()}" for name in contracts["library"]["layers"][-1].split(":")}
    # The `library` contract is exhaustive, so a new module must enter its layers; this carries it on to the others.
    assert set(contracts["pure"]["source_modules"]) == pure
    assert set(contracts["wire"]["source_modules"]) == pure | {"treehead.files", "treehead.keyfile"}


def test_generated_code_is_what_the_contract_gives() -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed")
    check = [sys.executable, str(ROOT / "scripts" / "generate_protobuf.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        pytest.param(lenient_codecs, "import base64", id="base64"),
        pytest.param(lenient_codecs, "def f():\n    from binascii import unhexlify", id="binascii_inside_a_function"),
        pytest.param(lenient_codecs, "key = bytes.fromhex(text)", id="fromhex"),
        pytest.param(lenient_codecs, "value = json.loads(text)", id="json"),
        pytest.param(lenient_codecs, "from json import load", id="json_by_name"),
        pytest.param(bare_numbers, "size = int(text)", id="int"),
        pytest.param(bare_numbers, "age = float(text)", id="float"),
        pytest.param(bare_numbers, "sizes = list(map(int, texts))", id="int_handed_to_map"),
        pytest.param(bare_numbers, "parser.add_argument('--port', type=int)", id="int_handed_to_argparse"),
        pytest.param(missing_docstring, "import os", id="docstring"),
    ],
)
def test_the_rules_bite(rule: Callable[[str], list[str]], source: str) -> None:
    assert len(rule(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f(size: int) -> float | None: ...",
        "TreeSize = NewType('TreeSize', int)",
        "isinstance(value, int)",
        "int.from_bytes(data, 'big')",
        "class Level(int): ...",
    ],
)
def test_naming_a_number_type_is_no_offence(source: str) -> None:
    assert bare_numbers(source) == []


def test_a_constant_spelled_in_hexadecimal_is_no_offence() -> None:
    assert lenient_codecs('PREFIX = bytes.fromhex("302a")') == []
