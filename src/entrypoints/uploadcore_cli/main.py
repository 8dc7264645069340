"""The console script."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command. Without the packages it needs, say which extra has them: nothing else of ours can be imported then."""
    try:
        from uploadcore_cli.commands import uploadcore  # noqa: PLC0415 - must fail here, where it can be told in one line
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("uploadcore"):
            raise
        sys.exit(f"uploadcore: {exc.name} is not installed: pip install 'uploadcore[client]'")
    uploadcore(prog_name="uploadcore")


if __name__ == "__main__":
    main()
