package convert_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestEncodedValuesAreDecodedUnchanged(t *testing.T) {
	for _, role := range record.Roles() {
		for _, state := range []record.State{record.StateReady, record.StateDraining} {
			m := record.Member{
				Role: role, ID: "m", Endpoint: "127.0.0.1:1", DownloadIP: "127.0.0.1", DownloadPort: 2,
				Zone: "z", Capacity: 3, Version: "v", State: state,
			}
			stored, err := convert.EncodeMember(m)
			require.NoError(t, err)
			got, err := convert.DecodeMember(m.Key(), []byte(stored))
			require.NoError(t, err)
			require.Equal(t, m, got)
		}
	}
	for status := record.StatusUnknown; status <= record.StatusFailed; status++ {
		task := record.Task{
			ID: "t", URL: "http://127.0.0.1/", Source: &record.Source{Length: -1, ETag: "e", LastModified: "l"}, PieceSize: 4,
			Status: status, Owner: "c", Replicas: []string{"d"}, Scheduler: "s", Epoch: 9, Revision: 8,
		}
		stored, err := convert.EncodeTask(task)
		require.NoError(t, err)
		require.NotContains(t, stored, "revision")
		task.Revision = 12
		got, err := convert.DecodeTask("t", 12, []byte(stored))
		require.NoError(t, err)
		require.Equal(t, task, got)
	}
}

// A newer build may have stored the record.
func TestUnknownFieldsOfARecordAreIgnored(t *testing.T) {
	got, err := convert.DecodeTask("t", 1, []byte(`{"owner":"c","epoch":"3","of_the_future":{"x":[1]}}`))
	require.NoError(t, err)
	require.EqualValues(t, 3, got.Epoch)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"owner":"c","status":"TASK_STATUS_RUNNING","source":null}`))
	f.Add([]byte(`{"id":"c","endpoint":"127.0.0.1:1","state":"MEMBER_STATE_READY"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = convert.DecodeTask("t", 1, data)
		if m, err := convert.DecodeMember(record.MemberKey{Role: record.RoleGateway, ID: "g"}, data); err == nil {
			require.NoError(t, m.Check())
		}
	})
}
