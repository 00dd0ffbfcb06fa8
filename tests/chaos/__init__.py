"""The crash kit: a ledger, a relay and a schedule of faults against workers on a real Kafka."""
