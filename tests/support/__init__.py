"""What the tests start, wait for and speak with; no test lives here."""
