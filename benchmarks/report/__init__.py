"""Tables, figures and pages, made from records alone, and the numbers that the documents quote."""
