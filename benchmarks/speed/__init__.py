"""How fast the suite is, and that its speed changes no answer: `python -m benchmarks.speed`.

One process and one model object answer POPE-like questions in several ways, in alternating order image by image, all
warmed up; then answers to all of POPE's questions are scored in fresh processes. Beside lmms-eval (`--peer`), what a
run spends beside the model (`--overhead`) and what it holds in memory (`--memory`) are measured by themselves.
`docs/speed.md` says what the numbers do and do not claim.
"""
