"""Does looking explain answering? What a model looks at, beside what it answers, question by question."""
