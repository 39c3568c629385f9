"""The command line: ``leveret worker``, ``leveret broker``."""
