package settings

import (
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// Each setting of a folder that is wrong, or goes with no other, is named with the reason.
func TestSettingsOfAFolderThatAreWrong(t *testing.T) {
	const peers = "REALTIME_DATA=d REALTIME_PEERS=a:1,b:1,c:1 "
	for s, want := range map[string]string{
		"REALTIME_DATA=d REALTIME_NATS_URL=nats://localhost":                        "REALTIME_DATA and REALTIME_NATS_URL exclude each other",
		"REALTIME_DATA=d REALTIME_HISTORY_TTL=1s":                                   "REALTIME_HISTORY_TTL is 1s, less than REALTIME_DEDUPE_WINDOW",
		"REALTIME_DATA=d REALTIME_SYNC=soon":                                        `REALTIME_SYNC is not a valid duration from 1ms to 1h, or "always"`,
		"REALTIME_DATA=d REALTIME_SYNC=0":                                           `REALTIME_SYNC is not a valid duration from 1ms to 1h, or "always"`,
		"REALTIME_DATA=d REALTIME_SYNC=-1s":                                         `REALTIME_SYNC is not a valid duration from 1ms to 1h, or "always"`,
		"REALTIME_DATA=d REALTIME_SYNC=999us":                                       `REALTIME_SYNC is not a valid duration from 1ms to 1h, or "always"`,
		"REALTIME_DATA=d REALTIME_SYNC=61m":                                         `REALTIME_SYNC is not a valid duration from 1ms to 1h, or "always"`,
		"REALTIME_DATA=d REALTIME_SYNC=Always":                                      `REALTIME_SYNC is not a valid duration from 1ms to 1h, or "always"`,
		"REALTIME_PEERS=a:1,b:1,c:1 REALTIME_PEERS_ADDR=[::1]:6222":                 "REALTIME_PEERS needs REALTIME_DATA",
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1":            "REALTIME_PEERS names fewer than 3 hubs: name all of them, this one too",
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,b:1":        "REALTIME_PEERS names fewer than 3 hubs: name all of them, this one too",
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,b,c:1":      `REALTIME_PEERS names "b", which is not host:port`,
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,:1,c:1":     `REALTIME_PEERS names ":1", which is not host:port`,
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,b:,c:1":     `REALTIME_PEERS names "b:", which is not host:port`,
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,b:1,c:1,":   `REALTIME_PEERS names "", which is not host:port`,
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,b:nats,c:1": `REALTIME_PEERS names "b:nats", which is not host:port`,
		"REALTIME_DATA=d REALTIME_PEERS_ADDR=[::1]:1 REALTIME_PEERS=a:1,b:1,a:1":    "REALTIME_PEERS names a:1 twice",
		peers + "REALTIME_PEERS_SECRET=s REALTIME_PEERS_ADDR=:0":                    `REALTIME_PEERS_ADDR is ":0", and must be host:port`, // the others could not know it
		peers + "REALTIME_PEERS_SECRET=s REALTIME_PEERS_ADDR=:65536":                `REALTIME_PEERS_ADDR is ":65536", and must be host:port`,
		peers + "REALTIME_PEERS_SECRET=s REALTIME_PEERS_ADDR=6222":                  `REALTIME_PEERS_ADDR is "6222", and must be host:port`,
		peers: `REALTIME_PEERS_SECRET is not set. REALTIME_PEERS_ADDR is ":6222", which can be reached from other machines`,
		peers + "REALTIME_PEERS_ADDR=0.0.0.0:6222":              `REALTIME_PEERS_SECRET is not set. REALTIME_PEERS_ADDR is "0.0.0.0:6222", which can be reached from other machines`,
		peers + "REALTIME_PEERS_SECRET=s REALTIME_PEERS_CERT=c": "REALTIME_PEERS_CERT must be set together with REALTIME_PEERS_KEY",
		peers + "REALTIME_PEERS_SECRET=s REALTIME_PEERS_KEY=k":  "REALTIME_PEERS_CERT must be set together with REALTIME_PEERS_KEY",
		peers + "REALTIME_PEERS_SECRET=s REALTIME_PEERS_CA=a":   "REALTIME_PEERS_CA needs REALTIME_PEERS_CERT",
	} {
		t.Run(s, func(t *testing.T) {
			is := is.New(t)
			_, err := Load(strings.Fields(s))
			is.True(err != nil)
			is.True(strings.HasPrefix(err.Error(), want))
			is.True(!strings.Contains(err.Error(), "\n")) // and nothing else is wrong
		})
	}
}

// What is right is taken as it is meant.
func TestSettingsOfAFolder(t *testing.T) {
	for s, test := range map[string]struct {
		sync            time.Duration
		peers, replicas int
	}{
		"REALTIME_DATA=d":                                                            {time.Second, 0, 1},
		"REALTIME_DATA=d REALTIME_NATS_REPLICAS=3":                                   {time.Second, 0, 1}, // there is one server
		"REALTIME_DATA=d REALTIME_SYNC=always":                                       {0, 0, 1},
		"REALTIME_DATA=d REALTIME_SYNC=1ms":                                          {time.Millisecond, 0, 1},
		"REALTIME_DATA=d REALTIME_SYNC=1h":                                           {time.Hour, 0, 1},
		"REALTIME_DATA=d REALTIME_PEERS=a:1,b:1,[fd00::1]:1 REALTIME_PEERS_SECRET=s": {time.Second, 3, 3},
		"REALTIME_DATA=d REALTIME_PEERS=a:1,b:1,c:1,d:1,e:1 REALTIME_PEERS_SECRET=s": {time.Second, 5, 3},
		"REALTIME_DATA=d REALTIME_PEERS=a:1,b:1,c:1 REALTIME_PEERS_ADDR=127.0.0.1:1 REALTIME_PEERS_CERT=c REALTIME_PEERS_KEY=k": {time.Second, 3, 3},
		"REALTIME_NATS_URL=nats://x REALTIME_NATS_REPLICAS=2":                                                                   {time.Second, 0, 2},
	} {
		t.Run(s, func(t *testing.T) {
			is := is.New(t)
			cfg, err := Load(strings.Fields(s))
			is.NoErr(err)
			is.Equal(time.Duration(cfg.Sync), test.sync)
			is.Equal(len(cfg.Peers), test.peers)
			is.Equal(cfg.Replicas(), test.replicas)
		})
	}
	is := is.New(t)
	cfg, err := Load([]string{"REALTIME_DATA=d", "REALTIME_PEERS=a:1, b:1 ,c:1", "REALTIME_PEERS_SECRET=s"})
	is.NoErr(err)
	is.Equal(cfg.Peers, []string{"a:1", "b:1", "c:1"}) // as other lists may be written
}

// No fault repeats the secret.
func TestSettingsOfAFolderKeepTheSecret(t *testing.T) {
	is := is.New(t)
	_, err := Load([]string{"REALTIME_PEERS=a:1", "REALTIME_PEERS_SECRET=canary", "REALTIME_PEERS_ADDR=x", "REALTIME_PEERS_CA=a"})
	is.True(err != nil)
	is.True(strings.Count(err.Error(), "\n") > 2)
	is.True(!strings.Contains(err.Error(), "canary"))
}

// Settings that mean nothing without a folder, or without others, are told of.
func TestSettingsThatNeedAFolder(t *testing.T) {
	const peers = " REALTIME_DATA=d REALTIME_PEERS=a:1,b:1,c:1 REALTIME_PEERS_SECRET=s"
	for s, want := range map[string]string{
		"REALTIME_SYNC=2s":                              "REALTIME_SYNC needs REALTIME_DATA",
		"REALTIME_SYNC=2s REALTIME_DATA=d":              "",
		"REALTIME_SYNC=2s REALTIME_NATS_URL=nats://x":   "REALTIME_SYNC needs REALTIME_DATA",
		"REALTIME_NATS_PREFIX=x":                        "REALTIME_NATS_PREFIX needs REALTIME_NATS_URL or REALTIME_DATA",
		"REALTIME_NATS_PREFIX=x REALTIME_DATA=d":        "",
		"REALTIME_NATS_HISTORY_BYTES=1":                 "REALTIME_NATS_HISTORY_BYTES needs REALTIME_NATS_URL or REALTIME_DATA",
		"REALTIME_NATS_HISTORY_BYTES=1 REALTIME_DATA=d": "",
		"REALTIME_NATS_REPLICAS=3 REALTIME_DATA=d":      "REALTIME_NATS_REPLICAS needs REALTIME_NATS_URL",
		"REALTIME_NATS_CREDS=c REALTIME_DATA=d":         "REALTIME_NATS_CREDS needs REALTIME_NATS_URL",
		"REALTIME_PEERS_ADDR=x:1 REALTIME_DATA=d":       "REALTIME_PEERS_ADDR needs REALTIME_PEERS",
		"REALTIME_PEERS_SECRET=s REALTIME_DATA=d":       "REALTIME_PEERS_SECRET needs REALTIME_PEERS",
		"REALTIME_PEERS_CERT=c REALTIME_DATA=d":         "REALTIME_PEERS_CERT needs REALTIME_PEERS",
		"REALTIME_PEERS_KEY=k REALTIME_DATA=d":          "REALTIME_PEERS_KEY needs REALTIME_PEERS",
		"REALTIME_PEERS_CA=a REALTIME_DATA=d":           "REALTIME_PEERS_CA needs REALTIME_PEERS",
		"REALTIME_PEERS_ADDR=x:1 REALTIME_PEERS_CERT=c REALTIME_PEERS_KEY=k REALTIME_PEERS_CA=a" + peers: "",
	} {
		t.Run(s, func(t *testing.T) {
			is := is.New(t)
			cfg, err := Load(strings.Fields(s))
			is.NoErr(err)
			is.Equal(strings.Join(cfg.Misfits(strings.Fields(s)), ", "), want)
		})
	}
}
