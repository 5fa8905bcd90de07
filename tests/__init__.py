"""The test suite: a mirror of the package, integration/ against real processes, fuzz/ and corpus/."""
