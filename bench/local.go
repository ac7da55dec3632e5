package main

// localWorkloads happen within one process.
func localWorkloads() []workload { return nil }

func localKind(string) func(clientEnd, load, int) (worker, error) { return nil }
