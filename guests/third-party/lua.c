/* Drives Lua through a fixed mix of work: `lua SIZE` runs lua.lua's rounds SIZE times.
 *
 * The same argument prints the same text everywhere: the seed of string hashes, which decides the
 * order of tables, is fixed when Lua is built. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include <stdio.h>
#include <stdlib.h>

static const char program[] = {
#embed "lua.lua"
    , 0};

/* Those that need nothing of an operating system. */
static const luaL_Reg libraries[] = {
    {LUA_GNAME, luaopen_base},          {LUA_COLIBNAME, luaopen_coroutine},
    {LUA_TABLIBNAME, luaopen_table},    {LUA_STRLIBNAME, luaopen_string},
    {LUA_MATHLIBNAME, luaopen_math},    {LUA_UTF8LIBNAME, luaopen_utf8},
};

int main(int argc, char **argv) {
    long size = argc > 1 ? strtol(argv[1], NULL, 10) : 1;
    if (size < 1 || size > 100000) {
        printf("usage: lua SIZE; SIZE is 1 to 100000\n");
        return 2;
    }
    lua_State *lua = luaL_newstate();
    if (!lua) {
        printf("failed: no memory\n");
        return 1;
    }
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        luaL_requiref(lua, libraries[i].name, libraries[i].func, 1);
        lua_pop(lua, 1);
    }
    if (luaL_loadbufferx(lua, program, sizeof program - 1, "=lua.lua", "t") != LUA_OK) {
        printf("failed: %s\n", lua_tostring(lua, -1));
        return 1;
    }
    lua_pushinteger(lua, size);
    if (lua_pcall(lua, 1, 0, 0) != LUA_OK) {
        printf("failed: %s\n", lua_tostring(lua, -1));
        return 1;
    }
    lua_close(lua);
    return 0;
}
