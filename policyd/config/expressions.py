"""Conditions in CEL, the Common Expression Language (https://cel.dev), compiled by Google's own library for it.

The library is an extra of its own (50 MB), and loaded when the first expression is read. An expression is checked when
it is: names, types, and that it is true or false. What it may cost is bounded by its form:

- It has at most `LENGTH_MAX` characters, and the library's own parser takes no more than 32 levels.
- It has no loops: the macros `all`, `exists`, `exists_one`, `map` and `filter` are refused. So each of its parts is
  evaluated once at most.
- The pattern of `matches` stands in the expression, and counts no repetitions (`x{900}`), which multiply. It is one of
  RE2's, which takes time in proportion to the text.

Money is in USD, each amount as the double nearest to it. Up to 2^23 (8 million) USD no two amounts of nano-USD have the
same one, so an amount compares with a number of up to nine decimals as the exact amounts would. Sums of such numbers
are rounded as doubles are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from policyd.config.problems import did_you_mean, one_of
from policyd.core.money import NANOS_PER_USD
from policyd.core.policy import Metric
from policyd.core.rules import ESTIMATED, ConditionFailed, Expression, Fill, Situation

if TYPE_CHECKING:
    from google.api.expr.v1alpha1.checked_pb2 import CheckedExpr
    from google.api.expr.v1alpha1.syntax_pb2 import Expr

LENGTH_MAX = 1000

PERCENT_MAX = 1000
"""What a condition can ask for at most of how full a limit is; a limit of nothing is as full as that."""

_ERROR = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
_LOOPS = "loops (all, exists, exists_one, map, filter) are not allowed"


class ExpressionWrong(Exception):
    """What is wrong with an expression, one message a mistake; users see a `ConfigError`."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What expressions can be about."""

    attributes: Sequence[str]
    metrics: Mapping[str, Metric]
    """By the name of a limit what it counts."""


@dataclass(frozen=True, slots=True)
class _Usage:
    """How full limits are, by their names."""

    type: str
    value: Callable[[Fill], int | float]
    of_cost: bool | None
    """Of limits on cost alone, of all others alone, or of all."""

    def takes(self, metric: Metric) -> bool:
        return self.of_cost is None or self.of_cost == (metric is Metric.COST)


_USAGES: Mapping[str, _Usage] = {
    "usage_percent": _Usage(
        "int", lambda fill: fill.used * 100 // fill.amount if fill.amount else PERCENT_MAX, of_cost=None
    ),
    "usage_usd": _Usage("double", lambda fill: _usd(fill.used), of_cost=True),
    "usage_units": _Usage("int", lambda fill: fill.used, of_cost=False),
}

_NOT_USED = Fill(used=0, amount=1)
"""How full a limit is that does not apply to the request."""

_Read = Callable[[Situation], Any]


def compile_expression(text: str, vocabulary: Vocabulary) -> Expression:
    """The condition that `text` is. Raises `ExpressionWrong`."""
    if len(text) > LENGTH_MAX:
        raise ExpressionWrong(f"found {len(text)} characters, expected at most {LENGTH_MAX}")
    readers = {**_attributes(vocabulary.attributes), **_estimates()}
    program, checked = _checked(text, tuple(readers))
    used = _limits_used(text, checked, vocabulary)
    names = {reference.name for reference in checked.reference_map.values()}
    needed = {name: read for name, read in readers.items() if name in names}
    needed |= {name: _usage_reader(_USAGES[name], limits) for name, limits in used.items()}

    def test(situation: Situation) -> bool:
        data = {name: read(situation) for name, read in needed.items()}
        try:
            value = program.eval(data=data).value()
        except (RuntimeError, ValueError) as error:
            raise ConditionFailed("the expression cannot be evaluated") from error
        if not isinstance(value, bool):  # an error is a value of its own
            raise ConditionFailed("the expression has no value")
        return value

    limits_read = tuple(dict.fromkeys(name for limits in used.values() for name in limits))
    return Expression(text, test, limits_read)


def _attributes(names: Sequence[str]) -> dict[str, _Read]:
    def reader(name: str) -> _Read:
        return lambda situation: situation.attributes.get(name, "")

    return {f"attributes.{name}": reader(name) for name in names}


def _estimates() -> dict[str, _Read]:
    def reader(metric: Metric) -> _Read:
        if metric is Metric.COST:
            return lambda situation: _usd(situation.estimated[metric])
        return lambda situation: situation.estimated[metric]

    return {_estimate_name(metric): reader(metric) for metric in ESTIMATED}


def _estimate_name(metric: Metric) -> str:
    return f"request.estimated_{metric}"


def _usage_reader(usage: _Usage, limits: Sequence[str]) -> _Read:
    return lambda situation: {name: usage.value(situation.fills.get(name, _NOT_USED)) for name in limits}


def _usd(nanos: int) -> float:
    return nanos / NANOS_PER_USD  # of two integers: the nearest double


def _checked(text: str, names: tuple[str, ...]) -> tuple[Any, CheckedExpr]:
    """The compiled expression, and its tree."""
    try:
        environment = _environment(names)
    except ImportError:
        install = 'pip install "policyd[cel]"'
        raise ExpressionWrong(f"the library for expressions is not installed; expected {install}, or no cel") from None
    from google.api.expr.v1alpha1.checked_pb2 import CheckedExpr  # noqa: PLC0415 - see the module's text
    from google.protobuf.any_pb2 import Any as AnyMessage  # noqa: PLC0415

    try:
        program = environment.compile(text)
    except RuntimeError as error:
        raise ExpressionWrong(*_mistakes(str(error), (*names, *_USAGES))) from None
    found = program.return_type().name().lower()
    if found != "bool":
        raise ExpressionWrong(f"found an expression of the type {found}, expected bool")
    return program, CheckedExpr.FromString(AnyMessage.FromString(program.serialize()).value)


@lru_cache(maxsize=1)  # a policy's expressions are all about the same, and making one takes milliseconds
def _environment(names: tuple[str, ...]) -> Any:
    """What tells the library of the variables. Raises `ImportError`."""
    from cel_expr_python import cel  # noqa: PLC0415 - see the module's text

    types = {"int": cel.Type.INT, "double": cel.Type.DOUBLE}
    variables = {name: cel.Type.STRING if name.startswith("attributes.") else cel.Type.INT for name in names}
    variables[_estimate_name(Metric.COST)] = cel.Type.DOUBLE
    variables |= {name: cel.Type.Map(cel.Type.STRING, types[usage.type]) for name, usage in _USAGES.items()}
    return cel.NewEnv(variables=variables)


def _mistakes(message: str, names: Sequence[str]) -> list[str]:
    """What the library says is wrong, with its place in the expression."""
    found = [_mistake(int(line), int(column), said, names) for line, column, said in _ERROR.findall(message)]
    return list(dict.fromkeys(found)) or ["the expression is nested too deeply, expected at most 32 levels"]


def _mistake(line: int, column: int, said: str, names: Sequence[str]) -> str:
    if "recursion" in said:
        return "the expression is nested too deeply, expected at most 32 levels"
    said = said.replace(" (in container '')", "")
    if undeclared := _UNDECLARED.search(said):
        said += did_you_mean(undeclared[1], names)
    elif "(double, int)" in said or "(int, double)" in said:
        said += "; a number beside a decimal one has a decimal point, such as 1.0"
    return f"line {line}, column {column} of the expression: {said}"


def _is_plain_pattern(expr: Expr) -> bool:
    return expr.const_expr.WhichOneof("constant_kind") == "string_value" and "{" not in expr.const_expr.string_value


def _limits_used(text: str, checked: CheckedExpr, vocabulary: Vocabulary) -> dict[str, list[str]]:
    """The limits whose usage the expression looks at, by the variable that it uses. Raises `ExpressionWrong`."""
    names = {key: reference.name for key, reference in checked.reference_map.items()}
    used: dict[str, list[str]] = {}
    mistakes: list[str] = []

    def look(expr: Expr) -> None:
        where = _place(text, checked.source_info.positions.get(expr.id))
        if expr.WhichOneof("expr_kind") == "comprehension_expr":
            mistakes.append(f"{where}{_LOOPS}")
            return
        if (variable := names.get(expr.id, "")) in _USAGES:
            mistakes.append(f'{where}expected the name of a limit right behind {variable}: {variable}["daily-spend"]')
        if expr.call_expr.function == "matches" and not _is_plain_pattern(expr.call_expr.args[-1]):
            mistakes.append(f"{where}expected a pattern as it is, without counted repetitions such as x{{900}}")
        container, limit = _lookup(expr)
        if container is None or (variable := names.get(container.id, "")) not in _USAGES:
            for part in _parts(expr):
                look(part)
        elif limit is None:
            mistakes.append(f'{where}expected the name of a limit as it is: {variable}["daily-spend"]')
        else:
            known = [name for name, metric in vocabulary.metrics.items() if _USAGES[variable].takes(metric)]
            if limit not in known:
                expectation = one_of(known) if known else "the name of a limit that it is for, of which there are none"
                mistakes.append(f'{where}{variable} of "{limit}": expected {expectation}{did_you_mean(limit, known)}')
            used.setdefault(variable, []).append(limit)

    look(checked.expr)
    if mistakes:
        raise ExpressionWrong(*dict.fromkeys(mistakes))
    return used


def _lookup(expr: Expr) -> tuple[Expr | None, str | None]:
    """What is looked up in what, as `usage["name"]` or `usage.name`; no name where it is not there in the text."""
    match expr.WhichOneof("expr_kind"):
        case "select_expr":
            return expr.select_expr.operand, expr.select_expr.field
        case "call_expr" if expr.call_expr.function == "_[_]":
            container, key = expr.call_expr.args
            is_text = key.const_expr.WhichOneof("constant_kind") == "string_value"
            return container, key.const_expr.string_value if is_text else None
        case _:
            return None, None


def _parts(expr: Expr) -> Iterator[Expr]:
    match expr.WhichOneof("expr_kind"):
        case "select_expr":
            yield expr.select_expr.operand
        case "call_expr":
            if expr.call_expr.HasField("target"):
                yield expr.call_expr.target
            yield from expr.call_expr.args
        case "list_expr":
            yield from expr.list_expr.elements
        case "struct_expr":
            for entry in expr.struct_expr.entries:
                if entry.HasField("map_key"):
                    yield entry.map_key
                yield entry.value
        case _:
            return  # a constant, or a name


def _place(text: str, offset: int | None) -> str:
    if offset is None:
        return ""
    before = text[:offset]
    line, column = before.count("\n") + 1, offset - before.rfind("\n")
    return f"line {line}, column {column} of the expression: "
