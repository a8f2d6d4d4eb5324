"""The class of all verbs, which refuses an option that is given twice: without it the last value would count."""

from __future__ import annotations

import sys
from typing import Any

from typer.core import TyperCommand

from pdetr3d.exits import odd_encoding


class Once(TyperCommand):
    """A verb that refuses two values of an option that has one, and says which of two values of a config key counts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the words of the command line, then parse them as Typer does."""
        if odd_encoding():
            " ".join(args).encode()  # an error where the system's encoding cannot hold them (``exits.explain``)
        once = {
            name: parameter.opts[0]
            for parameter in self.get_params(ctx)
            if parameter.param_type_name == "option"
            and not (parameter.multiple or getattr(parameter, "is_flag", False))
            for name in parameter.opts
        }
        given: dict[str, list[str]] = {}
        words = iter(args)
        for word in words:
            name, equals, value = word.partition("=")
            if word == "--":
                break
            if name in once:
                given.setdefault(once[name], []).append(value if equals else next(words, ""))
            elif equals and not name.startswith("-"):
                given.setdefault(name, []).append(value)
        for name, values in given.items():
            if len(set(values)) > 1 and name.startswith("-"):
                ctx.fail(f"{name} is given {len(values)} times: {', '.join(values)}; give it once")
            elif len(set(values)) > 1:
                print(f"{name} is given {len(values)} times: {', '.join(values)}; {values[-1]} counts", file=sys.stderr)
        return super().parse_args(ctx, args)
