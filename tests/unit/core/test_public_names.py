"""What `import uploadcore` offers: every name exists, is documented, and is listed in order."""

from __future__ import annotations

import inspect
import pkgutil

import uploadcore


def test_every_public_name_is_there_and_listed_in_order() -> None:
    assert uploadcore.__all__ == sorted(uploadcore.__all__)
    assert all(hasattr(uploadcore, name) for name in uploadcore.__all__)


def test_every_public_name_and_method_has_a_docstring() -> None:
    undocumented = []
    for name in uploadcore.__all__:
        public = getattr(uploadcore, name)
        members = [
            (f"{name}.{attribute}", member)
            for attribute, member in vars(public).items()
            if inspect.isfunction(member) and not attribute.startswith("_")
        ]
        undocumented += [spelt for spelt, thing in [(name, public), *members] if not inspect.getdoc(thing)]
    assert undocumented == []


def test_every_module_has_what_it_says_it_exports() -> None:
    modules = [
        __import__(f"uploadcore.{module.name}", fromlist=["__all__"])
        for module in pkgutil.iter_modules(uploadcore.__path__)
        if not module.ispkg
    ]

    missing = [
        f"{module.__name__}.{name}" for module in modules for name in module.__all__ if not hasattr(module, name)
    ]
    assert missing == []
