package main

func picture(*report) []byte { return nil }
