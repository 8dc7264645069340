"""Events as signed webhooks, by the Standard Webhooks scheme (https://www.standardwebhooks.com).

One publisher sends to one configured address, https and on the open internet unless it is told otherwise. What is sent, how to verify it,
and what the address must answer is told in `docs/events.md`.
"""

try:
    import anyio  # noqa: F401 - asked for here, so that its absence is told once and helpfully
    import httpcore  # noqa: F401
    import standardwebhooks  # noqa: F401
except ImportError as exc:
    raise ImportError(
        "uploadcore_webhooks needs packages that are not installed: pip install 'uploadcore[webhooks]'"
    ) from exc

from uploadcore_webhooks.publisher import WebhookPublisher, from_url

__all__ = ["WebhookPublisher", "from_url"]
