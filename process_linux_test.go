package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a hub in a process of its own, whose memory is its own.
type process struct {
	addr string
	pid  int
	logs *syncBuffer
	wait func() *os.ProcessState
	end  func() *os.ProcessState // SIGTERM, and waits
	kill func()                  // SIGKILL, and waits
}

// startProcess builds the hub as users do, without the race detector, and starts it.
func startProcess(t *testing.T, settings ...string) *process {
	t.Helper()
	return startBinary(t, buildHub(t), settings...)
}

func buildHub(t *testing.T) string {
	t.Helper()
	alone(t, "its processes have their own")
	binary := filepath.Join(t.TempDir(), "hub")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

func startBinary(t *testing.T, binary string, settings ...string) *process {
	t.Helper()
	logs, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = append(append(os.Environ(), "REALTIME_ADDR=127.0.0.1:0", "REALTIME_PRESENCE_AUDIENCE=none"), settings...)
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &process{pid: cmd.Process.Pid, logs: new(syncBuffer)}
	listening, read := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			io.WriteString(p.logs, lines.Text()+"\n")
			if _, addr, ok := strings.Cut(lines.Text(), "url=http://"); ok {
				listening <- addr
			}
		}
	}()
	p.wait = sync.OnceValue(func() *os.ProcessState {
		<-read
		cmd.Wait()
		logs.Close()
		return cmd.ProcessState
	})
	p.end = func() *os.ProcessState {
		cmd.Process.Signal(syscall.SIGTERM)
		return p.wait()
	}
	p.kill = func() {
		cmd.Process.Kill()
		p.wait()
	}
	t.Cleanup(func() { p.end() })
	select {
	case p.addr = <-listening:
	case <-time.After(time.Minute):
		t.Fatal("the hub does not listen")
	}
	return p
}
