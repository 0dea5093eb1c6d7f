"""lmms-eval, from the inside: our models as its plug-in, our protocols as its task files, and a command that runs it.

`plugin` is the entry point, `model` the two classes that lmms-eval makes of it, `wanted` reads lmms-eval's requests,
`asking` answers them from the record store or the model. `tasks/` holds the task files, `pope_task` and `cvbench_task`
what they call. `command` runs lmms-eval in a child process (`child`) and files what comes out.
"""
