package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/supernode-ha/supernode/pkg/settings"
)

var bundle = []settings.Group{settings.Gateway, settings.CDN, settings.Scheduler, settings.Registry, settings.Bundle}

func load(t *testing.T, file string, args ...string) (*settings.Settings, []string, error) {
	t.Helper()
	flags := pflag.NewFlagSet("supernode", pflag.ContinueOnError)
	s, set := settings.Bind(flags, bundle...)
	require.NoError(t, flags.Parse(args))
	unused, err := set.Load(file, true)
	return s, unused, err
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "supernode.yml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// original is a file in the format that Dragonfly v1 documents.
const original = `base:
  listenPort: 18002
  downloadPort: 18001
  homeDir: /from/file
  schedulerCorePoolSize: 7
  peerUpLimit: 6
  peerDownLimit: 3
  eliminationLimit: 5
  failureCountLimit: 5
  linkLimit: 20M
  systemReservedBandwidth: 10M
  maxBandwidth: 1G
  maxUploadBandwidth: 50MB
  enableProfiler: true
  debug: true
  failAccessInterval: 2m
  gcInitialDelay: 1s
  gcMetaInterval: 90s
  taskExpireTime: 4m
  peerGCDelay: 5m
  gcDiskInterval: 15s
  youngGCThreshold: 100GB
  CDNPattern: local
  advertiseIP: 127.0.0.7
  logConfig: {maxSize: 40}
  oddity: 1
plugins: {}
`

func TestFileOfDragonflyV1IsRead(t *testing.T) {
	s, unused, err := load(t, write(t, original))
	require.NoError(t, err)
	require.NoError(t, s.Check())
	require.Equal(t, []string{"base.oddity"}, unused)
	require.Equal(t, 18002, s.Port)
	require.Equal(t, 18001, s.DownloadPort)
	require.Equal(t, "/from/file", s.HomeDir)
	require.Equal(t, 7, s.PoolSize)
	require.Equal(t, 6, s.UpLimit)
	require.Equal(t, 3, s.DownLimit)
	require.EqualValues(t, 10<<20, s.SystemBandwidth)
	require.EqualValues(t, 1<<30, s.MaxBandwidth)
	require.EqualValues(t, 50<<20, s.MaxUploadBandwidth)
	require.EqualValues(t, 1<<30-10<<20, s.FetchRate())
	require.True(t, s.Profiler)
	require.True(t, s.Debug)
	require.Equal(t, 2*time.Minute, s.FailAccessInterval)
	require.Equal(t, 90*time.Second, s.GCMetaInterval)
	require.Equal(t, 4*time.Minute, s.TaskExpireTime)
	require.Equal(t, 5*time.Minute, s.PeerGCDelay)
	require.Equal(t, "127.0.0.7", s.AdvertiseIP)
}

func TestFlagOverridesEnvironmentOverridesFileOverridesDefault(t *testing.T) {
	file := write(t, "base: {listenPort: 1, downloadPort: 1, peerUpLimit: 1}")
	t.Setenv("SUPERNODE_DOWNLOAD_PORT", "2")
	t.Setenv("SUPERNODE_UP_LIMIT", "2")
	s, _, err := load(t, file, "--up-limit", "3")
	require.NoError(t, err)
	require.Equal(t, 1, s.Port)
	require.Equal(t, 2, s.DownloadPort)
	require.Equal(t, 3, s.UpLimit)
	require.Equal(t, 4, s.DownLimit)
}

func TestEmptyVariableCountsAsNotSet(t *testing.T) {
	file := write(t, "base: {homeDir: /from/file}")
	for _, name := range []string{"SUPERNODE_HOME_DIR", "SUPERNODE_DEBUG", "SUPERNODE_PORT"} {
		t.Setenv(name, "")
	}
	t.Setenv("SUPERNODE_PROFILER", "true")
	s, _, err := load(t, file)
	require.NoError(t, err)
	require.Equal(t, "/from/file", s.HomeDir)
	require.Equal(t, 8002, s.Port)
	require.False(t, s.Debug)
	require.True(t, s.Profiler)
}

func TestListInTheFileBecomesACommaSeparatedValue(t *testing.T) {
	s, _, err := load(t, write(t, "base:\n  etcdAddress:\n  - 127.0.0.1:1\n  - 127.0.0.2:1\n"))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:1", "127.0.0.2:1"}, settings.List(s.EtcdAddress))
}

func TestErrorOfAnInvalidValueNamesItsPlace(t *testing.T) {
	_, _, err := load(t, write(t, "base: {listenPort: many}"))
	require.ErrorContains(t, err, "base.listenPort")
	t.Setenv("SUPERNODE_MAX_BANDWIDTH", "-3")
	_, _, err = load(t, write(t, ""))
	require.ErrorContains(t, err, "SUPERNODE_MAX_BANDWIDTH")
	_, _, err = load(t, write(t, "base: ["))
	require.ErrorContains(t, err, "supernode.yml")
	_, _, err = load(t, filepath.Join(t.TempDir(), "missing.yml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestCheckReturnsAnErrorForInvalidValues(t *testing.T) {
	for want, args := range map[string][]string{
		"later release":        {"--cdn-pattern", "source"},
		"--cdn-pattern":        {"--cdn-pattern", "x"},
		"--port":               {"--port", "70000"},
		"--hold-time":          {"--hold-time", "4s"},
		"--node-id":            {"--node-id", "a/b"},
		"--max-peers-per-task": {"--max-peers-per-task", "-1"},
		"--max-registrations":  {"--max-registrations", "-1"},
		"--max-tasks":          {"--max-tasks", "-1"},
		"--system-bandwidth":   {"--max-bandwidth", "10M"},
	} {
		s, _, err := load(t, write(t, ""), args...)
		require.NoError(t, err)
		require.ErrorContains(t, s.Check(), want)
	}
	s, _, err := load(t, write(t, ""), "--max-bandwidth", "0")
	require.NoError(t, err)
	require.NoError(t, s.Check())
	require.Zero(t, s.FetchRate())
}

func TestDeliveredFileHasTheDefaultsAndNoUnknownKey(t *testing.T) {
	s, unused, err := load(t, filepath.Join("..", "..", "deploy", "supernode.yml"))
	require.NoError(t, err)
	require.Empty(t, unused)
	require.NoError(t, s.Check())
	defaults, _, err := load(t, write(t, ""))
	require.NoError(t, err)
	require.Equal(t, defaults, s)
}

func TestMemberSettingsAreReadAndChecked(t *testing.T) {
	s, _, err := load(t, write(t, ""))
	require.NoError(t, err)
	require.Empty(t, s.Zone)
	require.Equal(t, []int{1, 2}, []int{s.Capacity, s.Replicas})
	require.Equal(t, 25*time.Second, s.GracePeriod)
	s, unused, err := load(t, write(t, "base: {zone: eu-1.a, capacity: 3, replicas: 4, gracePeriod: 1m}"))
	require.NoError(t, err)
	require.NoError(t, s.Check())
	require.Empty(t, unused)
	require.Equal(t, "eu-1.a", s.Zone)
	require.Equal(t, []int{3, 4}, []int{s.Capacity, s.Replicas})
	require.Equal(t, time.Minute, s.GracePeriod)
	for _, args := range [][]string{
		{"--zone", "a b"}, {"--zone", strings.Repeat("z", 65)}, {"--capacity", "0"}, {"--capacity", "1001"},
		{"--replicas", "0"}, {"--replicas", "11"}, {"--grace-period", "999ms"}, {"--grace-period", "601s"},
	} {
		s, _, err := load(t, write(t, ""), args...)
		require.NoError(t, err)
		require.ErrorContains(t, s.Check(), args[0])
	}
}

func TestEveryCommandHasTheMemberSettingsAndPassesItsCheck(t *testing.T) {
	for _, group := range bundle {
		flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
		s, _ := settings.Bind(flags, group)
		require.NoError(t, flags.Parse([]string{"--zone", "z", "--capacity", "2", "--grace-period", "3s"}))
		require.NoError(t, s.Check())
		require.Equal(t, group == settings.Registry, flags.Lookup("replicas") != nil)
	}
}

func TestPrintedConfigurationCanBeLoaded(t *testing.T) {
	flags := pflag.NewFlagSet("supernode", pflag.ContinueOnError)
	_, set := settings.Bind(flags, bundle...)
	require.NoError(t, flags.Parse([]string{"--max-bandwidth", "1234567", "-H", "--peer-gc-delay", "90s", "--node-id", "7"}))
	text, err := set.YAML()
	require.NoError(t, err)
	var parsed map[string]map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &parsed))
	require.Equal(t, 8002, parsed["base"]["listenPort"])
	s, unused, err := load(t, write(t, text))
	require.NoError(t, err)
	require.Empty(t, unused)
	require.EqualValues(t, 1234567, s.MaxBandwidth)
	require.True(t, s.UseHA)
	require.Equal(t, 90*time.Second, s.PeerGCDelay)
	require.Equal(t, "7", s.NodeID)
}

func TestListIgnoresSpacesAndEmptyEntries(t *testing.T) {
	require.Equal(t, []string{"a:1", "b:2"}, settings.List(" a:1,,b:2 "))
	require.Empty(t, settings.List(""))
}
