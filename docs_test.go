package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/matryer/is"
	yaml "go.yaml.in/yaml/v4"

	"realtimehub/internal/access"
	"realtimehub/internal/hubtest"
	"realtimehub/internal/settings"
)

var (
	markdownRef = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading     = regexp.MustCompile(`(?m)^#+ (.*)$`)
	settingName = regexp.MustCompile(`\bREALTIME_[A-Z_]+`)
	notInSlug   = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func pages(t *testing.T, patterns ...string) (names []string) {
	t.Helper()
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: nothing there, %v", pattern, err)
		}
		names = append(names, found...)
	}
	return names
}

// anchorsOf are the names that a page's headings get from GitHub.
func anchorsOf(t *testing.T, page string) (anchors []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	prose := hubtest.FencedBlock.ReplaceAllString(string(text), "")
	for _, found := range heading.FindAllStringSubmatch(prose, -1) {
		anchors = append(anchors, strings.ReplaceAll(notInSlug.ReplaceAllString(strings.ToLower(found[1]), ""), " ", "-"))
	}
	return anchors
}

func TestDocsReferToWhatIsThere(t *testing.T) {
	links := 0
	for _, page := range pages(t, "*.md", "docs/*.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range markdownRef.FindAllStringSubmatch(hubtest.FencedBlock.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			links++
			path, anchor, _ := strings.Cut(found[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: %v", page, found[1], err)
			} else if anchor != "" && !slices.Contains(anchorsOf(t, target), anchor) {
				t.Errorf("%s: %s has no heading %q", page, target, anchor)
			}
		}
	}
	if links < 10 {
		t.Errorf("only %d links were found", links)
	}
}

func TestDocsNameRealSettings(t *testing.T) {
	is := is.New(t)
	params, err := env.GetFieldParamsWithOptions(&settings.Config{}, env.Options{Prefix: settings.Prefix})
	is.NoErr(err)
	real := map[string]bool{settings.Prefix + "TOKEN": true, settings.Prefix + "URL": true, settings.Prefix + "TENANT": true} // of commands that are clients
	for _, p := range params {
		real[p.Key] = true
	}
	for _, page := range pages(t, "*.md", "docs/*.md", "deploy/*", "compose.yaml", "Dockerfile") {
		text, err := os.ReadFile(page)
		is.NoErr(err)
		for _, name := range settingName.FindAllString(string(text), -1) {
			if !real[name] {
				t.Errorf("%s: %s is no setting", page, name)
			}
		}
	}
}

// What the recipes show of a proxy's file is in that file.
func TestDocsExcerpts(t *testing.T) {
	excerpts := 0
	for _, b := range hubtest.Blocks(t, "docs/recipes.md") {
		file := map[string]string{"nginx": "deploy/nginx.conf", "caddyfile": "deploy/Caddyfile"}[b.Language]
		if file == "" {
			continue
		}
		excerpts++
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.Text) {
			if !regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(strings.TrimSpace(line)) + `$`).Match(whole) {
				t.Errorf("%s is not in %s", strings.TrimSpace(line), file)
			}
		}
	}
	if excerpts < 3 {
		t.Errorf("only %d excerpts were found", excerpts)
	}
}

// kubeObject is what the tests below look at in a Kubernetes manifest.
type kubeObject struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
			Name        string            `yaml:"app.kubernetes.io/name"` // a Service's
		}
		Ports []struct {
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		Replicas    int
		ServiceName string                                     `yaml:"serviceName"`
		Early       bool                                       `yaml:"publishNotReadyAddresses"`
		Together    string                                     `yaml:"podManagementPolicy"`
		Claims      []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
		Template    struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				Grace           int `yaml:"terminationGracePeriodSeconds"`
				SecurityContext struct {
					NonRoot bool `yaml:"runAsNonRoot"`
					User    int  `yaml:"runAsUser"`
					FSGroup int  `yaml:"fsGroup"`
				} `yaml:"securityContext"`
				Containers []kubeContainer
			}
		}
		Rules []struct {
			HTTP struct {
				Paths []struct {
					Path     string
					PathType string `yaml:"pathType"`
					Backend  struct{ Service struct{ Name string } }
				}
			}
		}
	}
}

type kubeContainer struct {
	Env    []struct{ Name, Value string }
	Ports  []struct{ Name string }
	Mounts []struct {
		Name string
		Path string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	SecurityContext struct {
		ReadOnly bool `yaml:"readOnlyRootFilesystem"`
	} `yaml:"securityContext"`
	Startup   kubeProbe `yaml:"startupProbe"`
	Liveness  kubeProbe `yaml:"livenessProbe"`
	Readiness kubeProbe `yaml:"readinessProbe"`
	Lifecycle struct {
		PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
	}
}

type kubeProbe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// The manifest is of one piece, and of a hub that starts, is asked where it answers,
// and has the time to end.
func TestKubernetesManifest(t *testing.T) {
	is := is.New(t)
	text, err := os.ReadFile("deploy/kubernetes.yaml")
	is.NoErr(err)
	var objects []kubeObject
	is.NoErr(yaml.Load(text, &objects, yaml.WithAllDocuments()))
	named := map[string]kubeObject{}
	for _, o := range objects {
		named[o.Kind+" "+o.Metadata.Name] = o
	}
	is.Equal(len(named), 6)
	const name = "realtimehub"
	set, service, peers := named["StatefulSet "+name], named["Service "+name], named["Service "+name+"-peers"]
	budget, ingress := named["PodDisruptionBudget "+name], named["Ingress "+name]

	pod := set.Spec.Template
	is.Equal(set.Spec.Selector.MatchLabels, pod.Metadata.Labels)
	is.Equal(budget.Spec.Selector.MatchLabels, pod.Metadata.Labels)
	is.Equal(service.Spec.Selector.Name, pod.Metadata.Labels["app.kubernetes.io/name"])
	is.Equal(len(pod.Spec.Containers), 1)
	hub := pod.Spec.Containers[0]
	is.Equal(service.Spec.Ports[0].TargetPort, hub.Ports[0].Name)
	is.True(pod.Spec.SecurityContext.NonRoot && pod.Spec.SecurityContext.User == 65532 && hub.SecurityContext.ReadOnly)

	// The hubs find each other, also when none is ready yet, and each has a volume.
	is.Equal(set.Spec.ServiceName, peers.Metadata.Name)
	is.Equal(set.Spec.Together, "Parallel")
	is.Equal(peers.Spec.Selector.Name, service.Spec.Selector.Name)
	is.True(peers.Spec.Early)
	is.Equal(len(set.Spec.Claims), 1)
	is.Equal(hub.Mounts[0].Name, set.Spec.Claims[0].Metadata.Name)
	is.Equal(pod.Spec.SecurityContext.FSGroup, pod.Spec.SecurityContext.User)

	environ := []string{"REALTIME_JWT_SECRET=" + testSecret, "REALTIME_PEERS_SECRET=" + testSecret} // the Secret's part
	for _, e := range hub.Env {
		environ = append(environ, e.Name+"="+e.Value)
	}
	cfg, err := settings.Load(environ)
	is.NoErr(err)
	is.Equal(settings.Unknown(environ), nil)
	is.Equal(filepath.Dir(cfg.Data), hub.Mounts[0].Path) // which root owns
	is.Equal(len(cfg.Peers), set.Spec.Replicas)
	for i, addr := range cfg.Peers {
		is.Equal(addr, fmt.Sprintf("%s-%d.%s:%d", name, i, peers.Metadata.Name, peers.Spec.Ports[0].Port))
	}
	is.True(strings.HasSuffix(cfg.PeersAddr, fmt.Sprint(":", peers.Spec.Ports[0].Port)))
	needs := time.Duration(hub.Lifecycle.PreStop.Sleep.Seconds)*time.Second + cfg.Drain + shutdownTimeout
	is.True(time.Duration(pod.Spec.Grace)*time.Second > needs) // else streams are cut

	h := newTestHub(t)
	for _, p := range []kubeProbe{hub.Startup, hub.Liveness, hub.Readiness} {
		is.Equal(p.HTTPGet.Port, hub.Ports[0].Name)
		status, _ := h.do(t, http.MethodGet, p.HTTPGet.Path, "")
		is.Equal(status, http.StatusOK)
	}
	is.True(hub.Liveness.HTTPGet.Path != hub.Readiness.HTTPGet.Path) // the broker away restarts no hub

	// Each path that browsers are let in at leads to a route of theirs, and no other does.
	var reached []string
	for _, rule := range ingress.Spec.Rules {
		for _, p := range rule.HTTP.Paths {
			is.Equal(p.Backend.Service.Name, service.Metadata.Name)
			if _, err := os.Stat("web" + p.Path); err == nil {
				continue
			}
			found := 0
			for pattern, route := range h.API.routes() {
				_, path, _ := strings.Cut(pattern, " ")
				if path == p.Path || p.PathType == "Prefix" && strings.HasPrefix(path, p.Path+"/") {
					is.True(route.scope&access.ScopeSubscribe != 0) // for browsers
					reached = append(reached, pattern)
					found++
				}
			}
			if found == 0 {
				t.Errorf("the Ingress lets in at %s, where nothing is", p.Path)
			}
		}
	}
	for pattern, route := range h.API.routes() {
		if route.scope == access.ScopeSubscribe && !slices.Contains(reached, pattern) {
			t.Errorf("%s is for browsers, and not reached by the Ingress", pattern)
		}
	}
}
