package process_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/process"
	"github.com/supernode-ha/supernode/pkg/settings"
)

func TestEnvironmentVariableNamesTheFileUnlessTheFlagDoes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "own.yml")
	require.NoError(t, os.WriteFile(file, []byte("base: {listenPort: 18002}"), 0o600))
	config := func(args ...string) (string, error) {
		cmd := process.Command("gateway", "", func(context.Context, *process.Process) error { return nil }, settings.Gateway)
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"config"}, args...))
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	t.Setenv("SUPERNODE_CONFIG", file)
	text, err := config()
	require.NoError(t, err)
	require.Contains(t, text, "listenPort: 18002")
	_, err = config("--config", filepath.Join(dir, "missing.yml"))
	require.ErrorIs(t, err, os.ErrNotExist, "the flag takes precedence")
	t.Setenv("SUPERNODE_CONFIG", filepath.Join(dir, "missing.yml"))
	_, err = config()
	require.ErrorIs(t, err, os.ErrNotExist, "a file that is named must exist")
}
