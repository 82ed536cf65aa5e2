"""What the tests share: photos, feature files, a small network, and processes started by hand."""
