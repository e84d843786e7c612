//! The integration tests, on real services; `tests/run` starts them.
