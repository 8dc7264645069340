"""Runs the examples: the docstrings' (`>>>`) and the Python blocks of README.md and docs/."""

from sybil import Sybil
from sybil.parsers.doctest import DocTestParser
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = (
    Sybil(path="src", pattern="*.py", parsers=[DocTestParser()])
    + Sybil(path=".", patterns=["README.md", "docs/*.md"], parsers=[PythonCodeBlockParser(), SkipParser()])
).pytest()
