"""What all suites came to, as tables and pictures: made from the folders of results, by benchmarks.results."""
