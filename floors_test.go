package main

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "realtimehub"

// house is one of our packages, as the go command sees it. A name is an import path without
// the module and internal/; the top level is main.
type house struct {
	imports     []string // of our packages, sorted
	testImports []string // by its tests
	doc         string
}

func shortName(path string) string {
	if path == module {
		return "main"
	}
	return strings.TrimPrefix(strings.TrimPrefix(path, module+"/"), "internal/")
}

// listPackages asks the go command for all of our packages as they are on Linux, which has
// every file that another system has a stand-in for.
func listPackages(t *testing.T) map[string]house {
	t.Helper()
	const format = `{{.ImportPath}}|{{join .Imports " "}}|{{join .TestImports " "}} {{join .XTestImports " "}}|{{.Doc}}`
	list := exec.Command("go", "list", "-f", format, "./...")
	list.Env = append(os.Environ(), "GOOS=linux")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	ours := func(paths string) (names []string) {
		for _, path := range strings.Fields(paths) {
			if path == module || strings.HasPrefix(path, module+"/") {
				names = append(names, shortName(path))
			}
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	packages := map[string]house{}
	for line := range strings.Lines(string(out)) {
		part := strings.SplitN(strings.TrimSpace(line), "|", 4)
		packages[shortName(part[0])] = house{ours(part[1]), ours(part[2]), part[3]}
	}
	return packages
}

// floorPlan is what docs/inside.md shows: the packages in the order in which they are drawn,
// the floor of each (the lowest is 0), and the imports that the lists below the drawings have.
type floorPlan struct {
	drawn   []string
	floor   map[string]int
	listed  []string
	imports map[string][]string
}

var (
	fencedDrawing = regexp.MustCompile("(?ms)^```mermaid\n(.*?)^```$")
	fencedList    = regexp.MustCompile("(?ms)^```packages\n(.*?)^```$")
	drawnNode     = regexp.MustCompile(`^(\w+)(?:\["(.*)"\])?$`)
)

func readFloorPlan(t *testing.T) floorPlan {
	t.Helper()
	text, err := os.ReadFile("docs/inside.md")
	if err != nil {
		t.Fatal(err)
	}
	plan := floorPlan{floor: map[string]int{}, imports: map[string][]string{}}
	below := 0 // floors of the drawings before, on which the next one stands
	for _, drawing := range fencedDrawing.FindAllSubmatch(text, -1) {
		below += plan.draw(t, string(drawing[1]), below)
	}
	for _, list := range fencedList.FindAllSubmatch(text, -1) {
		for line := range strings.Lines(string(list[1])) {
			line, imports, _ := strings.Cut(strings.TrimSpace(line), " → ")
			name, _, _ := strings.Cut(line, " ")
			plan.listed = append(plan.listed, name)
			plan.imports[name] = strings.FieldsFunc(imports, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	if below == 0 || len(plan.listed) == 0 {
		t.Fatal("docs/inside.md has no drawing, or no list of packages")
	}
	return plan
}

// draw reads a drawing, whose lowest floor has a number, and returns how many floors it has.
func (p *floorPlan) draw(t *testing.T, drawing string, lowest int) int {
	t.Helper()
	floors, inside := strings.Count(drawing, "subgraph "), false
	floor := lowest + floors
	for line := range strings.Lines(drawing) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "subgraph "):
			floor, inside = floor-1, true
		case line == "end":
			inside = false
		case strings.HasPrefix(line, "direction "):
		case inside:
			for node := range strings.SplitSeq(line, "; ") {
				name := drawnNode.FindStringSubmatch(node)
				if name == nil {
					t.Fatalf("docs/inside.md: %q is not a package", node)
				}
				if name[2] == "" {
					name[2] = name[1]
				}
				p.drawn = append(p.drawn, name[2])
				p.floor[name[2]] = floor
			}
		}
	}
	return floors
}

// The page that newcomers read shows each package once, and what it imports as it is. No
// import leads to the same floor or to a higher one.
func TestFloors(t *testing.T) {
	packages, plan := listPackages(t), readFloorPlan(t)
	if !slices.Equal(plan.listed, plan.drawn) {
		t.Errorf("docs/inside.md draws %q\nand lists %q", plan.drawn, plan.listed)
	}
	for i, name := range plan.drawn {
		if _, ok := packages[name]; !ok {
			t.Errorf("docs/inside.md draws %s, which is no package", name)
		}
		if slices.Contains(plan.drawn[:i], name) {
			t.Errorf("docs/inside.md draws %s twice", name)
		}
	}
	for name, p := range packages {
		if p.doc == "" {
			t.Errorf("%s has no doc.go that says what it owns", name)
		}
		floor, ok := plan.floor[name]
		if !ok {
			t.Errorf("docs/inside.md lacks %s → %s", name, strings.Join(p.imports, ", "))
			continue
		}
		if got := plan.imports[name]; !slices.Equal(got, p.imports) {
			t.Errorf("docs/inside.md: %s → %s\nit imports %s", name, strings.Join(got, ", "), strings.Join(p.imports, ", "))
		}
		for _, below := range p.imports {
			if at, ok := plan.floor[below]; ok && at >= floor {
				t.Errorf("%s imports %s, which is not on a lower floor", name, below)
			}
		}
	}
}

// What starts the program as a user does knows nothing of what is inside: beside packages
// that are for tests, which stand above main, it has only the reader of streams.
func TestFloorsOfBlackBoxes(t *testing.T) {
	packages, plan := listPackages(t), readFloorPlan(t)
	boxes := 0
	for name, p := range packages {
		if !strings.HasPrefix(name, "test/") {
			continue
		}
		boxes++
		for _, used := range slices.Concat(p.imports, p.testImports) {
			if used != "sse" && plan.floor[used] <= plan.floor["main"] {
				t.Errorf("%s imports %s", name, used)
			}
		}
	}
	if boxes == 0 {
		t.Error("no package was found under test/")
	}
}

// namedIn finds names in docs/inside.md that are said to be in a file of ours.
var namedIn = regexp.MustCompile("((?:`\\w+`(?:, | and )?)+) in \\[[^\\]]*\\]\\(\\.\\./([^)]+\\.go)\\)")

// What docs/inside.md says where to look for is there.
func TestFloorsNameWhatIsThere(t *testing.T) {
	text, err := os.ReadFile("docs/inside.md")
	if err != nil {
		t.Fatal(err)
	}
	all := namedIn.FindAllSubmatch(text, -1)
	if len(all) < 10 {
		t.Fatalf("docs/inside.md says of %d files what is in them", len(all))
	}
	for _, m := range all {
		file, err := os.ReadFile(string(m[2]))
		if err != nil {
			t.Error(err)
		}
		for _, name := range strings.FieldsFunc(string(m[1]), func(r rune) bool { return strings.ContainsRune("`, ", r) }) {
			if name != "and" && !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type )`+name+`\b`).Match(file) {
				t.Errorf("docs/inside.md: %s is not in %s", name, m[2])
			}
		}
	}
}
