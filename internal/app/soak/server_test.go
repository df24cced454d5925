//go:build soak

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/conf"
)

// childDir names the installation that a copy of the test binary serves, in place of the tests.
const childDir = "MOORING_SOAK_DIR"

// TestMain lets the test binary be the server: what it holds is told apart from what its clients hold.
func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := serve(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sample is what the server holds at a moment.
type sample struct {
	Goroutines int     `json:"goroutines"`
	Files      int     `json:"files"`    // open descriptors
	Heap       float64 `json:"heap_mib"` // of live objects: the garbage is collected before
	Objects    uint64  `json:"objects"`
	RSS        float64 `json:"rss_mib"`
}

// serve does what the command of that name does, and tells how it is by HTTP on the socket "look" beside the installation. Where it listens it
// says on standard output.
func serve(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	debug.SetGCPercent(200) // as the command
	c, err := conf.Load(dir)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	p, err := app.Build(ctx, app.Options{Config: c, Log: log})
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", lookSocket(dir))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/sample", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(look()) })
	mux.HandleFunc("/profile/{name}", func(w http.ResponseWriter, r *http.Request) {
		detail, _ := strconv.Atoi(r.FormValue("debug"))
		_ = pprof.Lookup(r.PathValue("name")).WriteTo(w, detail)
	})
	go func() { _ = http.Serve(l, mux) }() // it ends with the process
	return p.Run(ctx, func() { _ = json.NewEncoder(os.Stdout).Encode(p.Addresses()) })
}

func lookSocket(dir string) string { return filepath.Join(filepath.Dir(dir), "look") }

func look() sample {
	runtime.GC()
	runtime.GC() // what pools keep for one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := sample{Goroutines: runtime.NumGoroutine(), Heap: float64(m.HeapAlloc) / (1 << 20), Objects: m.HeapObjects}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.Files = len(list) - 1
	}
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			pages, _ := strconv.Atoi(fields[1])
			s.RSS = float64(pages*os.Getpagesize()) / (1 << 20)
		}
	}
	return s
}

// server is the platform in a process of its own.
type server struct {
	cmd       *exec.Cmd
	dir       string
	log       string // path
	addresses app.Addresses
	look      *http.Client
}

func start(t *testing.T, dir string) *server {
	t.Helper()
	s := &server{cmd: exec.Command(os.Args[0]), dir: dir, log: filepath.Join(filepath.Dir(dir), "log")}
	s.cmd.Env = append(os.Environ(), childDir+"="+dir)
	log, err := os.Create(s.log)
	must(t, err)
	defer log.Close()
	s.cmd.Stderr = log
	out, err := s.cmd.StdoutPipe()
	must(t, err)
	must(t, s.cmd.Start())
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it has ended already, unless the test failed
		_ = s.cmd.Wait()
	})
	if err := json.NewDecoder(out).Decode(&s.addresses); err != nil {
		text, _ := os.ReadFile(s.log)
		t.Fatalf("the server did not start: %v\n%s", err, text)
	}
	s.look = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", lookSocket(dir))
		}}}
	return s
}

// get asks the socket "look".
func (s *server) get(path string) ([]byte, error) {
	r, err := s.look.Get("http://server" + path)
	if err != nil {
		return nil, fmt.Errorf("asking the server how it is: %w", err)
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}

func (s *server) sample(t *testing.T) (out sample) {
	t.Helper()
	text, err := s.get("/sample")
	must(t, err)
	must(t, json.Unmarshal(text, &out))
	return out
}

// keep writes a profile of the server to a file that outlives the test, and returns its path.
func (s *server) keep(name, file string, detail int) (string, error) {
	text, err := s.get(fmt.Sprintf("/profile/%s?debug=%d", name, detail))
	if err != nil {
		return "", err
	}
	path := filepath.Join(os.TempDir(), file)
	return path, os.WriteFile(path, text, 0o600)
}

// settle waits until the server has no more goroutines than enough and their number stands still, and returns the last sample. It waits for
// as long as the platform may remember somebody who went away, and some more.
func (s *server) settle(t *testing.T, enough int) sample {
	t.Helper()
	for began, still, last := time.Now(), 0, (sample{}); ; time.Sleep(time.Second) {
		now := s.sample(t)
		if still++; now.Goroutines != last.Goroutines || now.Files != last.Files {
			still = 0
		}
		last = now
		if still >= 5 && now.Goroutines <= enough && time.Since(began) > idle+5*time.Second || time.Since(began) > 3*idle {
			return now
		}
	}
}

// end stops the server as an operator would and returns what it logged.
func (s *server) end() (log []byte, err error) {
	err = s.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil {
		err = s.cmd.Wait()
	}
	log, failed := os.ReadFile(s.log)
	return log, errors.Join(err, failed)
}

// alarms are the lines of a log that say that somebody must act, or that a goroutine panicked.
func alarms(log []byte) (lines []string) {
	for line := range bytes.Lines(log) {
		if bytes.Contains(line, []byte("level=ERROR")) || bytes.Contains(line, []byte("panic")) || bytes.Contains(line, []byte("DATA RACE")) {
			lines = append(lines, string(bytes.TrimSpace(line)))
		}
	}
	return lines
}
