"""Files local and on S3, and the run directory that is made of them: ledger, lease, snapshot."""
