package db_test

import (
	"path/filepath"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

func TestConformance(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		dbtest.Test(t, func(t testing.TB, schemas ...db.Schema) *db.DB {
			return dbtest.OpenURL(t, "sqlite:"+filepath.Join(t.TempDir(), "x.db"), schemas...)
		})
	})
	for _, isolation := range []string{"read committed", "serializable"} {
		t.Run("postgres "+isolation, func(t *testing.T) {
			onPostgres(t)
			dbtest.Test(t, func(t testing.TB, schemas ...db.Schema) *db.DB {
				return dbtest.OpenURL(t, isolated(t, dbtest.URL(t), isolation), schemas...)
			})
		})
	}
}
