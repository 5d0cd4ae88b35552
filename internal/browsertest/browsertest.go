// Package browsertest starts a real headless browser for tests, opens pages in it and
// waits for what they show. Only tests import it.
//
//	ctx := browsertest.Start(t)
//	page, closeTab := browsertest.Tab(t, ctx, url)
//	browsertest.Do(t, page, chromedp.Click("button"))
//	browsertest.Becomes(t, page, `document.title === "done"`)
package browsertest

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"realtimehub/internal/hubtest"
)

// Start starts a browser, which ends with the test or after ten minutes; without one
// the test is skipped, in CI it fails.
func Start(t testing.TB) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		hubtest.Lacks(t, "there is no Chromium")
	}
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	for tries := 1; ; tries++ {
		ctx, err := start(t, bounded, path)
		if err == nil {
			return ctx
		}
		if tries == 3 { // on a machine that is very busy it may not come up
			t.Fatal(err)
		}
		t.Log(err)
	}
}

func start(t testing.TB, ctx context.Context, path string) (context.Context, error) {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.UserDataDir(folder(t)), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true))
	allocator, cancel := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(func() {
		cancel()
		chromedp.FromContext(allocator).Allocator.Wait()
	})
	page, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() { chromedp.Cancel(page); cancel() })
	return page, chromedp.Run(page)
}

// folder is a folder for a browser's profile. The browser's own children may write into
// it for a while after it has ended, so removing it may take several tries.
func folder(t testing.TB) string {
	folder, err := os.MkdirTemp("", "browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for tries := 0; ; tries++ {
			err := os.RemoveAll(folder)
			if err == nil {
				return
			}
			if tries == 600 {
				t.Error(err)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return folder
}

// Tab opens a page; what the page complains about fails the test, but for what is
// expected.
func Tab(t testing.TB, browser context.Context, url string, expected ...string) (page context.Context, closeTab func()) {
	t.Helper()
	page, cancel := chromedp.NewContext(browser)
	var once sync.Once
	closeTab = func() { once.Do(func() { chromedp.Cancel(page); cancel() }) }
	t.Cleanup(closeTab)
	complains := func(text string) {
		if !slices.ContainsFunc(expected, func(part string) bool { return strings.Contains(text, part) }) {
			t.Errorf("%s: %s", url, text)
		}
	}
	chromedp.ListenTarget(page, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("%s: exception: %v", url, e.ExceptionDetails)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError && !strings.HasSuffix(e.Entry.URL, "/favicon.ico") {
				complains(e.Entry.Text)
			}
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.APITypeError {
				var words []string
				for _, arg := range e.Args {
					words = append(words, cmp.Or(string(arg.Value), arg.Description))
				}
				complains(strings.Join(words, " "))
			}
		}
	})
	Do(t, page, log.Enable(), chromedp.Navigate(url))
	return page, closeTab
}

// Do runs actions on a page.
func Do(t testing.TB, page context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(page, actions...); err != nil {
		t.Fatal(err)
	}
}

// Becomes waits until a JavaScript expression is true on a page, for a minute at most.
func Becomes(t testing.TB, page context.Context, expression string) {
	t.Helper()
	var ok bool
	if err := chromedp.Run(page, Poll(expression, &ok)); err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
}

// Poll is chromedp.Poll for a minute at most, and not by frames, of which a tab in the
// background paints none.
func Poll(expression string, result any) chromedp.Action {
	return chromedp.Poll(expression, result, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(time.Minute))
}

// Awaited is for chromedp.Evaluate of an expression that is a promise.
func Awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }
