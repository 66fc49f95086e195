"""Bicep files as Python values, read with tree-sitter: there is no compiler to ask.

Literals become str, int, bool, None, list and dict; whatever would be computed becomes an `Expression`, so that a test
tells a name from a string that spells it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tree_sitter
import tree_sitter_bicep

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))
_LOOP_NAMES = {"identifier", "loop_variable", "loop_enumerator"}
_LITERALS: dict[str, Callable[[str], Any]] = {
    "number": int,
    "boolean": lambda text: text == "true",
    "null": lambda _: None,
}


@dataclass(frozen=True)
class Expression:
    """Something that Bicep computes: its source, and the names in it."""

    text: str
    names: frozenset[str]


@dataclass(frozen=True)
class Interpolated(Expression):
    """A string with `${…}` in it."""


@dataclass(frozen=True)
class Declaration:
    """A resource or module. `body` is that of each one where `loop` names a list."""

    symbol: str
    kind: str  # "Microsoft.Web/sites@2024-04-01", or a module's path
    existing: bool
    condition: str | None
    loop: str | None
    body: Mapping[str, Any]

    @property
    def type(self) -> str:
        return self.kind.partition("@")[0]


@dataclass
class Template:
    """One file. `parameters` maps each name to whether it has a default, `variables` to its value."""

    path: Path
    parameters: dict[str, bool] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Declaration] = field(default_factory=dict)
    modules: dict[str, Declaration] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    syntax_errors: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    members: set[tuple[str, str]] = field(default_factory=set)  # of modules: (module, output)
    loop_names: set[str] = field(default_factory=set)

    @property
    def declared(self) -> set[str]:
        return {*self.parameters, *self.variables, *self.resources, *self.modules}

    def of_type(self, kind: str) -> list[Declaration]:
        return [found for found in self.resources.values() if found.type == kind and not found.existing]

    def value(self, found: Any) -> Any:
        """The value of a variable that is named, or what was given."""
        if isinstance(found, Expression) and found.text in self.variables:
            return self.value(self.variables[found.text])
        return found


def read(path: Path) -> Template:
    """Parse one file."""
    root = _PARSER.parse(path.read_bytes()).root_node
    template = Template(path)
    for node in _walk(root):
        if node.type == "ERROR" or node.is_missing:
            template.syntax_errors.append(f"{path.name}:{node.start_point[0] + 1}: {_text(node)[:60]}")
    for node in root.named_children:
        _declare(template, node)
    return template


def _declare(template: Template, node: tree_sitter.Node) -> None:
    if node.type in {"comment", "decorators", "target_scope_assignment"}:
        return
    symbol = _text(node.named_children[0])
    rest = node.named_children[1:]
    if node.type == "parameter_declaration":
        template.parameters[symbol] = len(rest) > 1
        for default in rest[1:]:
            _use(template, default)
    elif node.type == "variable_declaration":
        _use(template, rest[0])
        template.variables[symbol] = _value(rest[0])
    elif node.type == "output_declaration":
        _use(template, rest[-1])
        template.outputs[symbol] = _value(rest[-1])
    elif node.type in {"resource_declaration", "module_declaration"}:
        kind = _value(rest[0])
        body, condition, loop = rest[-1], None, None
        _use(template, body)
        if body.type == "if_statement":
            condition = _text(body.named_children[0])
            body = body.named_children[-1]
        if body.type == "for_statement":
            loop = _text(body.named_children[-2])
            body = body.named_children[-1]
        existing = any(child.type == "existing" for child in node.children)
        target = template.resources if node.type == "resource_declaration" else template.modules
        target[symbol] = Declaration(symbol, kind, existing, condition, loop, _value(body))
    else:
        message = f"{template.path.name}: {node.type} is not read"
        raise NotImplementedError(message)


def _use(template: Template, node: tree_sitter.Node) -> None:
    template.used |= _names(node)
    for found in _walk(node):
        if found.type == "for_statement":
            heads = found.named_children[:-2]
            template.loop_names |= {_text(name) for head in heads for name in _walk(head) if name.type in _LOOP_NAMES}
        if found.type == "member_expression":
            parts = _text(found).split(".")
            if len(parts) == 3 and parts[1] == "outputs":
                template.members.add((parts[0], parts[2]))


def _value(node: tree_sitter.Node) -> Any:
    if node.type == "string":
        if any(child.type == "interpolation" for child in node.named_children):
            return Interpolated(_text(node)[1:-1], _names(node))
        return "".join(_text(child) for child in node.named_children) or _text(node).strip("'")
    if node.type == "array":
        return [_value(child) for child in node.named_children if child.type != "comment"]
    if node.type == "object":
        return dict(_property(child) for child in node.named_children if child.type == "object_property")
    if node.type in _LITERALS:
        return _LITERALS[node.type](_text(node))
    return Expression(_text(node), _names(node))


def _property(node: tree_sitter.Node) -> tuple[str, Any]:
    key, value = node.named_children[0], node.named_children[-1]
    return _text(key).strip("'"), _value(value)


def _names(node: tree_sitter.Node) -> frozenset[str]:
    """Every name that is read in an expression; not the keys of objects, nor the functions called."""
    found: set[str] = set()
    if node.type == "identifier":
        return frozenset({_text(node)})
    skip: set[int] = set()
    if node.type == "object_property":
        skip.add(node.named_children[0].id)
        if node.named_children[0].type == "string":
            found |= _names(node.named_children[0])
    if node.type == "call_expression":
        function = node.child_by_field_name("function")
        if function is not None and function.type == "identifier":
            skip.add(function.id)
    for child in node.named_children:
        if child.id not in skip:
            found |= _names(child)
    return frozenset(found)


def _walk(node: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _text(node: tree_sitter.Node) -> str:
    return node.text.decode() if node.text is not None else ""
