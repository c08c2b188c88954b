"""Object stores that tests start on 127.0.0.1: SeaweedFS (a real one), and moto (counts, and fails on demand)."""
