"""Search-QA: questions answered by searching a corpus, offline or against a retrieval server."""
