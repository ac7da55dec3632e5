package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

// needs is what a simulation of n members takes at its peak, in bytes: each keeps a record of every other, and sockets, timers and stacks of its own. The
// 1,250 bytes for each pair and what garbage adds were measured at 1,000.
func needs(n int) int64 { return int64(n) * (200<<10 + 1250*int64(n)) * 2 }

// modelNeeds is what n modelled members take at their peak: what each knows of every other, what it has to say of it, and garbage.
func modelNeeds(n int) int64 { return int64(n) * (20<<10 + 40*int64(n)) }

// fits returns an error when this machine has not got the memory that n members need.
func fits(n int, need int64) error {
	if have, known := available(); known && need > have {
		return fmt.Errorf("%d members need about %s of memory, and %s are available: at most %d real ones fit here", n, gib(need), gib(have), most(have))
	}
	return nil
}

// bound trades memory that is there for half of the CPU, and bounds what garbage may take. It returns how much may be in use.
func bound(n int) int64 {
	debug.SetGCPercent(400)
	have, _ := available()
	limit := max(needs(n), have/2)
	debug.SetMemoryLimit(limit)
	return limit
}

// most is how many members fit.
func most(have int64) int {
	n := 0
	for needs(n+10) <= have {
		n += 10
	}
	return n
}

// available is the memory that can be had without swapping, if the system says so.
func available() (bytes int64, known bool) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	m := regexp.MustCompile(`(?m)^MemAvailable: +(\d+) kB$`).FindSubmatch(info)
	if m == nil {
		return 0, false
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kib << 10, err == nil
}

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse) //nolint:gosec // far below 2^63
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }
