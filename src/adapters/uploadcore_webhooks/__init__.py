"""Events as signed webhooks, by the Standard Webhooks scheme (https://www.standardwebhooks.com)."""
