// Package recipes shows that what the docs have their reader type works as it stands:
// the tutorial, the recipes in each language, the files in deploy/ with the proxies
// themselves, the hubs of compose.yaml, the brokers of compose.nats.yaml, and the npm package
// in Node.
//
// Its tests start the program as a user does. What they lack (Node, nginx, HAProxy, PHP,
// Ruby, Java, …) is skipped; with CI set its absence is a failure.
//
//	go test ./test/recipes
//	go test -run TestDeploy -v ./test/recipes
package recipes
