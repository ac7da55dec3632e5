//go:build unix

package main

import "syscall"

// ownGroup keeps the terminal's Ctrl-C from the children: the parent ends them in order.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
