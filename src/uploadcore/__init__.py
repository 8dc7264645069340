"""Control plane for large, resumable uploads that go straight from the client to the object store."""
