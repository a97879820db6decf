"""Every check is read: no test drops a comparison, asserts what cannot fail, or checks nothing.

The detector reads the source of all tests. Its own cases stand below as strings, where it does not see them.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Calls that only answer a question: as a statement of its own, the answer is thrown away.
QUESTIONS = {
    "all", "allclose", "any", "array_equal", "array_equiv", "endswith", "equal", "exists", "hasattr", "isclose",
    "isdir", "isfile", "is_dir", "is_file", "isfinite", "isinstance", "isnan", "issubclass", "issubset", "issuperset",
    "startswith",
}  # fmt: skip
# Calls that fail a test by themselves, besides everything named assert_... or check_...
CHECKS = {"deprecated_call", "fail", "fnmatch_lines", "raises", "warns"}
CHECKING_PREFIXES = ("assert", "check_")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(node: ast.AST) -> str:
    """Return the last part of a called or dotted name: `np.testing.assert_equal` -> `assert_equal`."""
    match node:
        case ast.Call(func=func):
            return name_of(func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def functions(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def expects_an_error(node: ast.AST) -> bool:
    """Return whether a statement is a with-block of pytest.raises or warns: there, evaluating is the check."""
    return isinstance(node, ast.With) and any(name_of(item.context_expr) in CHECKS for item in node.items)


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield every statement that is not inside a block that expects an error."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.stmt):
            yield child
        if not expects_an_error(child):
            yield from statements(child)


def is_dropped(value: ast.expr) -> bool:
    """Return whether an expression, as a statement of its own, asks a question and drops the answer."""
    match value:
        case ast.Constant():
            return False  # a docstring, or the dots of a protocol
        case ast.Call():
            return name_of(value) in QUESTIONS
        case ast.Await(value=inner):
            return is_dropped(inner)
        case ast.Yield() | ast.YieldFrom() | ast.NamedExpr():
            return False
    return True  # a comparison, a name, an attribute, a tuple ...


def cannot_fail(test: ast.expr) -> bool:
    """Return whether an asserted expression is true whatever the code under test does.

    An expression that contains a call may compare with itself: `key(a) == key(a)` asks whether key is deterministic.
    """
    match test:
        case ast.Constant(value=value):
            return bool(value)
        case ast.Tuple(elts=elts):
            return bool(elts)
        case ast.JoinedStr() | ast.Lambda() | ast.GeneratorExp():
            return True
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(map(cannot_fail, values))
        case ast.BoolOp(op=ast.And(), values=values):
            return all(map(cannot_fail, values))
        case ast.Compare(left=left, comparators=[right]):
            return are_the_same(left, right)
        case ast.Call(args=[first, second, *_]) if name_of(test) in QUESTIONS:
            return are_the_same(first, second)
    return False


def are_the_same(first: ast.expr, second: ast.expr) -> bool:
    """Return whether two expressions are one, `approx` aside, and hold no call that could differ between the two."""
    if isinstance(second, ast.Call) and name_of(second) == "approx" and second.args:
        second = second.args[0]
    calls = any(isinstance(node, ast.Call) for node in ast.walk(first))
    return not calls and ast.dump(first) == ast.dump(second)


def compares_with_itself(statement: ast.stmt) -> bool:
    """Return whether a statement is `assert_something(x, x)`."""
    match statement:
        case ast.Expr(value=ast.Call(args=[first, second, *_]) as call):
            return name_of(call).startswith("assert") and are_the_same(first, second)
    return False


def checking_functions(tree: ast.Module) -> set[str]:
    """Return the functions of a file that check something, themselves or through one another."""
    checking: set[str] = set()
    while found := {f.name for f in functions(tree) if f.name not in checking and checks_something(f, checking)}:
        checking |= found
    return checking


def checks_something(function: Function, checking: set[str]) -> bool:
    """Return whether a function asserts, expects an error, or calls one that is known to check."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = name_of(node)
            if name in CHECKS | checking or name.startswith(CHECKING_PREFIXES):
                return True
    return False


def idle_checks(source: str) -> list[str]:
    """Return one sentence, with its line, for every check that nobody reads and every test that checks nothing."""
    tree = ast.parse(source)
    idle = []
    for statement in statements(tree):
        if isinstance(statement, ast.Expr) and is_dropped(statement.value):
            idle.append((statement.lineno, f"the value of `{ast.unparse(statement)}` is dropped"))
        if isinstance(statement, ast.Assert) and cannot_fail(statement.test):
            idle.append((statement.lineno, f"`{ast.unparse(statement)}` cannot fail"))
        if compares_with_itself(statement):
            idle.append((statement.lineno, f"`{ast.unparse(statement)}` compares a thing with itself"))
    checking = checking_functions(tree)
    for function in functions(tree):
        if function.name.startswith("test_") and function.name not in checking:
            idle.append((function.lineno, f"{function.name} checks nothing"))
    return [f"line {line}: {fault}" for line, fault in sorted(idle)]


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: str(file.relative_to(TESTS)))
def test_every_check_is_read(file: Path) -> None:
    assert idle_checks(file.read_text()) == []


@pytest.mark.parametrize(
    "body",
    [
        "np.allclose(a, 2.0)",
        "torch.equal(a, b)",
        "a == b",
        "a < b",
        "a",
        "result.ok",
        "not a",
        "isinstance(a, int)",
        "path.exists()",
        "(a == b, 'message')",
        "assert True",
        "assert 1",
        "assert 'text'",
        "assert f'{a}'",
        "assert (a == b, 'message')",
        "assert a == a",
        "assert a.b[0] <= a.b[0]",
        "assert a == pytest.approx(a)",
        "assert np.allclose(a, a)",
        "assert a == b or True",
        "assert (x == 1 for x in a)",
        "assert lambda: a",
        "np.testing.assert_allclose(a, a)",
        "if a:\n    a == b",
        "with open(a) as f:\n    f == b",
    ],
)
def test_an_idle_check_is_found(body: str) -> None:
    lines = body.splitlines()
    source = "\n".join(["def test_it():", *(f"    {line}" for line in lines), "    assert a == 1"])
    (found,) = idle_checks(source)
    assert found.startswith(f"line {1 + len(lines)}: ")


@pytest.mark.parametrize(
    "body",
    [
        "assert np.allclose(a, 2.0)",
        "np.testing.assert_allclose(a, b)",
        "assert a == b",
        "assert not a",
        "assert a == pytest.approx(2.0)",
        "assert key(a) == key(a)",
        "assert next(stream) != next(stream)",
        "with pytest.raises(TypeError):\n    a < b",
        "with pytest.raises(AttributeError):\n    a.missing",
        "with open(a) as f, pytest.raises(ValueError, match='x'):\n    f[0]",
        "check_grid(a)",
        "mock.assert_called_once_with(a)",
        "pytest.fail('no')",
        "def inner(x):\n    assert x > 0\ninner(a)",
        "'a comment in quotes'\nassert a",
        "run(a)\nassert a",
    ],
)
def test_a_check_that_is_read_is_left_alone(body: str) -> None:
    source = "\n".join(["def test_it():", *(f"    {line}" for line in body.splitlines())])
    assert idle_checks(source) == []


def test_a_test_without_a_check_is_found() -> None:
    assert idle_checks("def test_it():\n    out = spacing(a)\n    print(out)") == ["line 1: test_it checks nothing"]


def test_a_check_in_a_function_of_the_same_file_counts_through_its_callers() -> None:
    shared = "def holds(a):\n    assert a\n\ndef all_hold(many):\n    for a in many:\n        holds(a)\n\n"
    assert idle_checks(shared + "def test_it():\n    all_hold([1])") == []
    assert idle_checks("def test_it():\n    all_hold([1])") == ["line 1: test_it checks nothing"]
