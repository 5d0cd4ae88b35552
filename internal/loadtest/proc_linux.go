//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// clockTick is the unit of times in /proc, the same on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuOf is the user and system time that processes have spent.
func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		fields, err := statOf(pid)
		if err != nil {
			return 0, fmt.Errorf("CPU time: %w", err)
		}
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
			}
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum, nil
}

// ranFor is for how long all threads of processes have run, to the nanosecond.
func ranFor(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				return 0, fmt.Errorf("CPU time: %w", err)
			}
			ran, _, _ := strings.Cut(string(stat), " ")
			ns, err := strconv.ParseInt(ran, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}

// pssOf is the memory of processes in bytes; what they share counts once.
func pssOf(pids []int) (int, error) {
	sum := 0
	for _, pid := range pids {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("memory: %w", err)
		}
		_, rest, _ := strings.Cut(string(rollup), "\nPss:")
		line, _, _ := strings.Cut(rest, "kB")
		kib, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return 0, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		sum += kib << 10
	}
	return sum, nil
}

// statOf is /proc/PID/stat from the third field, the state, on.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return nil, fmt.Errorf("/proc/%d/stat is short", pid)
	}
	return fields, nil
}

// family is a process and its children.
func family(pid int) ([]int, error) {
	pids := []int{pid}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		child, _ := strconv.Atoi(filepath.Base(dir))
		fields, err := statOf(child)
		if err != nil {
			continue // it has ended meanwhile
		}
		if fields[1] == strconv.Itoa(pid) {
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// listener finds the process that listens on a port.
func listener(port int) (int, error) {
	inodes := map[string]bool{}
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(name)
		if err != nil {
			continue // a kernel without IPv6 has no tcp6
		}
		for line := range strings.Lines(string(table)) {
			fields := strings.Fields(line)
			const listening = "0A"
			if len(fields) > 9 && fields[3] == listening && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+fields[9]+"]"] = true
			}
		}
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && inodes[to] {
			return strconv.Atoi(strings.Split(link, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process of ours to read listens on port %d", port)
}

// cpuSet is a set of cores, as the kernel takes it.
type cpuSet [16]uint64

func oneCore(core int) *cpuSet {
	var set cpuSet
	set[core/64] = 1 << (core % 64)
	return &set
}

// cores are the first and the last core that we may use.
func cores() (first, last int, err error) {
	var set cpuSet
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set))); errno != 0 {
		return 0, 0, fmt.Errorf("sched_getaffinity: %w", errno)
	}
	first = -1
	for i, word := range set {
		if word == 0 {
			continue
		}
		if first < 0 {
			first = i*64 + bits.TrailingZeros64(word)
		}
		last = i*64 + bits.Len64(word) - 1
	}
	if first < 0 {
		return 0, 0, errors.New("sched_getaffinity: no core")
	}
	return first, last, nil
}

// pinThread ties a thread to one core; 0 is the calling one.
func pinThread(tid, core int) error {
	set := oneCore(core)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set))); errno != 0 {
		return fmt.Errorf("sched_setaffinity to core %d: %w", core, errno)
	}
	return nil
}

// pinProcess ties all our threads to one core; later ones inherit it.
func pinProcess(core int) error {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(filepath.Base(task))
		if err := pinThread(tid, core); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}
